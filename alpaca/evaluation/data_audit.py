"""Any set of Alpaca rows, looked at as generated ones are: near-duplicates, filters, figures, contamination.

Changes nothing. Knows no teacher.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.evaluation import alike
from alpaca.evaluation.config import AuditConfig, EvaluateConfig
from alpaca.generation.dedupe import Pool
from alpaca.generation.filters import Filter
from alpaca.generation.items import Item
from alpaca.generation.requests import as_item, first_instance, read_items, read_rows
from alpaca.generation.tokens import tokenizer

_SHOWN = 20  # groups of copies on the page
Finding = dict[str, Any]


def audit(config: EvaluateConfig, run_dir: Path) -> None:
    """Print the figures as JSON on stdout; report.html, pictures and findings.jsonl go into `run_dir`."""
    from alpaca.generation.report import add_rows
    from alpaca.page import Page

    assert config.data.path is not None
    path = Path(config.data.path)
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path} holds no rows: give a file of rows, data.path=FILE")
    items = [as_item(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    run_dir.mkdir(parents=True, exist_ok=True)
    total, copied = Counter[str](), list[tuple[int, str]]()

    def keep(finding: Finding) -> None:
        total[finding["kind"]] += 1
        if finding["kind"] == "copies":
            copied.append((finding["copies"], finding["text"]))
            copied[:] = sorted(copied, reverse=True)[:_SHOWN]
        put(finding)

    with _lines(run_dir / "findings.jsonl") as put:
        _not_text(rows, keep)
        del rows
        figures = examine(items, config.audit, keep)
    page = Page(f"Audit of {path.name}")
    page.table([(k.replace("_", " "), v if not isinstance(v, dict) else json.dumps(v)) for k, v in figures.items()])
    if copied:
        page.heading("Instructions that stand there most often")
        page.table([(f"{number:,}", text[:300]) for number, text in copied], ("rows", "instruction"))
    evaluation = [i.instruction for p in config.audit.against for i in read_items(Path(p))]
    add_rows(page, [asdict(i) for i in items], config.audit.language, evaluation)
    page.write(run_dir)
    print(json.dumps({"path": str(path), **figures}, ensure_ascii=False))
    _advise(total, figures, config.audit)
    console.say(f"{run_dir / 'report.html'}; {total.total()} findings in {run_dir / 'findings.jsonl'}")


def _advise(total: Counter[str], figures: dict[str, Any], config: AuditConfig) -> None:
    """What a person should not miss."""
    if total["not compared"]:
        console.warn(f"{total['not compared']} instructions hold no word of audit.language={config.language}, or too many, and were compared with none: audit.language=CODE names another language")  # fmt: skip
    if total["not a text"]:
        console.warn(f"{total['not a text']} rows have an input or output that is no text: they are read here as JSON writes them, but training takes texts alone")  # fmt: skip
    unnamed = figures["pairs_above_threshold"] - figures["pairs_of_copies"] - total["similar pair"]
    if unnamed > 0:
        console.say(f"{total['similar pair']:,} similar pairs are named, at most {config.pairs_per_row} an instruction (audit.pairs_per_row); {unnamed:,} more were counted")  # fmt: skip


@contextmanager
def _lines(path: Path) -> Iterator[Callable[[Finding], None]]:
    """What writes findings into a file, a line each, as they come; the file is there when all are."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield lambda finding: print(json.dumps(finding, ensure_ascii=False), file=file)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): free some space or give another folder, hydra.run.dir=DIR") from None  # fmt: skip
    finally:
        partial.unlink(missing_ok=True)


def examine(
    items: list[Item], config: AuditConfig, keep: Callable[[Finding], None] = lambda finding: None
) -> dict[str, Any]:
    """The figures of a set. `keep` is given one finding for each thing that a person may want to look at."""
    pairs, reasons = alike.Pairs(), Counter[str]()
    for finding in alike.findings(items, config, pairs):
        keep(finding)
    for finding in _filtered(items, config):
        reasons[finding["reason"]] += 1
        keep(finding)
    figures: dict[str, Any] = {
        "rows": len(items),
        "unique_instructions": len({i.instruction for i in items}),
        "repeated_rows": len(items) - len(set(items)),
        "with_input": sum(bool(i.input) for i in items),
        "empty_outputs": sum(not i.output for i in items),
        "pairs": len(items) * (len(items) - 1) // 2,
        "pairs_above_threshold": pairs.above,
        "pairs_of_copies": pairs.of_copies,
        "groups_of_copies": pairs.groups,
        "not_compared": pairs.not_compared,
        "would_be_filtered": dict(reasons.most_common()),
    }
    for path in config.against:
        kinds = Counter[str]()
        for finding in contamination(items, read_items(Path(path)), config):
            kinds[finding["kind"]] += 1
            keep({**finding, "set": path})
        figures[f"contamination {Path(path).name}"] = dict(kinds)
    return figures


def _not_text(rows: list[Any], keep: Callable[[Finding], None]) -> None:
    for number, row in enumerate(rows):
        given = {k: row.get(k, first_instance(row).get(k)) for k in ("input", "output")}
        if others := {k: v for k, v in given.items() if v is not None and not isinstance(v, str)}:
            keep({"kind": "not a text", "row": number, "parts": others, "text": row["instruction"]})


def _filtered(items: list[Item], config: AuditConfig) -> Iterator[Finding]:
    check = Filter(config.filters, config.language)
    for number, item in enumerate(items):
        reason = check.reason(item) if item.instruction.strip() else "empty instruction"
        if reason is not None:
            yield {"kind": "filter", "row": number, "reason": reason, "text": item.instruction}


def contamination(items: list[Item], evaluation: list[Item], config: AuditConfig) -> Iterator[Finding]:
    """Rows that share a run of `ngram` tokens with a text of an evaluation set (GPT-3's rule, arXiv 2005.14165, appendix
    C), and rows whose instruction resembles one of its instructions."""
    tokens = tokenizer(config.language)
    runs: dict[tuple[str, ...], int] = {}
    pool = Pool(config.language, config.threshold)
    for number, item in enumerate(evaluation):
        pool.add(item.instruction)  # row and number are the same
        for run in _runs(tokens(_whole(item)), config.ngram):
            runs.setdefault(run, number)
    for number, item in enumerate(items):
        shared = next((r for r in _runs(tokens(_whole(item)), config.ngram) if r in runs), None)
        if shared is not None:
            yield {"kind": f"{config.ngram}-gram", "row": number, "of": runs[shared], "text": " ".join(shared)}
        if (match := pool.match(item.instruction)) is not None:
            yield {"kind": "rouge_l", "row": number, "of": match.row, "score": round(match.score, 4), "text": item.instruction}  # fmt: skip


def _whole(item: Item) -> str:
    return f"{item.instruction} {item.input} {item.output}"


def _runs(tokens: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[i:] for i in range(length)), strict=False)
