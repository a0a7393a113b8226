"""Any set of Alpaca rows, looked at as generated ones are: near-duplicates, filters, figures, contamination.

Changes nothing. Knows no teacher.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.evaluation.config import AuditConfig, EvaluateConfig
from alpaca.generation.dedupe import Pool
from alpaca.generation.filters import Filter
from alpaca.generation.items import Item
from alpaca.generation.requests import read_items
from alpaca.generation.tokens import tokenizer


def audit(config: EvaluateConfig, run_dir: Path) -> None:
    """Print the figures as JSON on stdout; report.html, pictures and findings.jsonl go into `run_dir`."""
    from alpaca.generation.journal import write_beside
    from alpaca.generation.report import add_rows
    from alpaca.page import Page

    assert config.data.path is not None
    path = Path(config.data.path)
    items = read_items(path)
    if not items:
        raise UserError(f"{path} holds no rows: give a file of rows, data.path=FILE")
    figures, findings = examine(items, config.audit)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_beside(run_dir / "findings.jsonl", "".join(json.dumps(f, ensure_ascii=False) + "\n" for f in findings))
    page = Page(f"Audit of {path.name}")
    page.table([(k.replace("_", " "), v if not isinstance(v, dict) else json.dumps(v)) for k, v in figures.items()])
    evaluation = [i.instruction for p in config.audit.against for i in read_items(Path(p))]
    add_rows(page, [asdict(i) for i in items], config.audit.language, evaluation)
    page.write(run_dir)
    print(json.dumps({"path": str(path), **figures}, ensure_ascii=False))
    console.say(f"{run_dir / 'report.html'}; {len(findings)} findings in {run_dir / 'findings.jsonl'}")


def examine(items: list[Item], config: AuditConfig) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures of a set, and one finding for each pair or row that a person may want to look at."""
    findings = [*_similar_pairs(items, config), *_filtered(items, config)]
    pairs = sum(f["kind"] == "similar pair" for f in findings)
    reasons = Counter(f["reason"] for f in findings if f["kind"] == "filter")
    figures: dict[str, Any] = {
        "rows": len(items),
        "unique_instructions": len({i.instruction for i in items}),
        "with_input": sum(bool(i.input) for i in items),
        "empty_outputs": sum(not i.output for i in items),
        "pairs": len(items) * (len(items) - 1) // 2,
        "pairs_above_threshold": pairs,
        "would_be_filtered": dict(reasons.most_common()),
    }
    for path in config.against:
        found = list(contamination(items, read_items(Path(path)), config))
        findings += [{**f, "set": path} for f in found]
        figures[f"contamination {Path(path).name}"] = dict(Counter(f["kind"] for f in found))
    return figures, findings


def _similar_pairs(items: list[Item], config: AuditConfig) -> Iterator[dict[str, Any]]:
    pool = Pool(config.language, config.threshold)
    for number, item in enumerate(items):
        for match in pool.matches(item.instruction):
            yield {"kind": "similar pair", "rows": [match.row, number], "score": round(match.score, 4), "texts": [items[match.row].instruction, item.instruction]}  # fmt: skip
        pool.add(item.instruction)


def _filtered(items: list[Item], config: AuditConfig) -> Iterator[dict[str, Any]]:
    check = Filter(config.filters, config.language)
    for number, item in enumerate(items):
        reason = check.reason(item) if item.instruction.strip() else "empty instruction"
        if reason is not None:
            yield {"kind": "filter", "row": number, "reason": reason, "text": item.instruction}


def contamination(items: list[Item], evaluation: list[Item], config: AuditConfig) -> Iterator[dict[str, Any]]:
    """Rows that share a run of `ngram` tokens with a text of an evaluation set (GPT-3's rule, arXiv 2005.14165, appendix
    C), and rows whose instruction resembles one of its instructions."""
    tokens = tokenizer(config.language)
    runs: dict[tuple[str, ...], int] = {}
    pool = Pool(config.language, config.threshold)
    for number, item in enumerate(evaluation):
        pool.add(item.instruction)
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
