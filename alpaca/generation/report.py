"""report.html, its pictures and the data set card beside the rows: what a person, or the hub, needs to see.

One HTML file with everything in it, which opens offline. Knows figures and rows, no pipeline.
"""

import html
import json
from pathlib import Path
from typing import Any

from alpaca.console import warn
from alpaca.errors import UserError
from alpaca.generation import figures as count
from alpaca.generation import pictures
from alpaca.generation.config import GenerateConfig
from alpaca.generation.journal import write_beside
from alpaca.generation.rows import Outcome
from alpaca.generation.tokens import by_character
from alpaca.page import Page

_SPENT = {
    "requests": "requests sent, retries included",
    "prompt_tokens": "tokens of prompts",
    "completion_tokens": "tokens of replies",
    "usd": "US dollars",
    "lost_tokens": "tokens that lost answers may have cost besides, at most",
    "lost_usd": "US dollars that lost answers may have cost besides, at most",
    "uncounted": "replies whose tokens the server did not count (taken at their most)",
}


def write_report(config: GenerateConfig, rows: Outcome, figures: dict[str, Any]) -> None:
    """report.html, pictures and README.md in the folder of the rows."""
    folder, page = Path(config.output).parent, Page(f"Generated instructions: {Path(config.output).name}")
    others = sorted(p.stem for p in folder.glob("*.journal") if p.stem != Path(config.output).name)
    if others:
        warn(
            f"{folder} also holds {', '.join(others[:3])}: its report.html and README.md are now those of {Path(config.output).name}; give each output a folder of its own"
        )
    funnel = _funnel(config, rows)
    page.heading("Asked, parsed, dropped, kept")
    page.table(
        [
            ("instructions asked for", funnel["asked"]),
            ("parsed", funnel["parsed"]),
            *figures["dropped"].items(),
            ("kept", len(rows.rows)),
        ]
    )
    if figures["passages_dropped"]:
        page.text("Passages dropped before anything was asked:")
        page.table(list(figures["passages_dropped"].items()))
    steps = {"asked": funnel["asked"], "parsed": funnel["parsed"], **figures["dropped"], "kept": len(rows.rows)}
    page.picture("funnel", pictures.bars(steps))
    if rows.history:
        page.picture("requests", pictures.over_requests(rows.history))
    spent = figures["spent"]
    page.heading("Cost")
    page.table([(_SPENT[k], f"{v:,.4f}" if isinstance(v, float) else f"{v:,}") for k, v in spent.items()])
    add_rows(page, rows.rows, config.language, rows.seeds)
    try:
        page.write(folder)
    except OSError as error:
        raise UserError(
            f"{folder / 'report.html'} cannot be written ({error.strerror}): the rows are there; make room and run the same command again"
        ) from None
    write_beside(folder / "README.md", card(config, rows, figures))


def _funnel(config: GenerateConfig, rows: Outcome) -> dict[str, int]:
    return {"asked": len(rows.history) * config.source.items, "parsed": sum(h["parsed"] for h in rows.history)}


def add_rows(page: Page, rows: list[dict[str, Any]], language: str, against: list[str]) -> None:
    """What any set of rows shows: lengths, nearest instructions, verbs, samples."""
    if not rows:
        page.text("No rows.")
        return
    unit = "characters" if by_character(language) else "words"
    page.heading(f"Lengths in {unit}")
    page.picture("lengths", pictures.histograms(count.lengths(rows, language), unit))
    page.heading("ROUGE-L F1 to the nearest instruction")
    to_seed, to_row = count.nearest_scores([r["instruction"] for r in rows], language, against)
    page.picture("nearest", pictures.histograms({"nearest seed": to_seed, "nearest other row": to_row}, "ROUGE-L F1"))
    pairs, method = count.verbs(rows, language)
    page.heading("Root verbs with their objects")
    page.text(f"Found in {sum(pairs.values()):,} of {len(rows):,} instructions; method: {method}.")
    if pairs and (not by_character(language) or pictures.cjk_fonts()):
        page.picture("verbs", pictures.sunburst(pairs))
    elif pairs:
        page.text("No picture: no installed font has these characters.")
    if pairs:
        page.table([(f"{verb} {noun}", n) for (verb, noun), n in pairs.most_common(20)])
    page.heading("Samples")
    for row in rows[:: max(1, len(rows) // 10)][:10]:
        parts = {k: row.get(k) for k in ("instruction", "input", "output") if row.get(k)}
        page.parts.append("<pre>" + html.escape("\n".join(f"{k}: {v}" for k, v in parts.items())) + "</pre>")


def card(config: GenerateConfig, rows: Outcome, figures: dict[str, Any]) -> str:
    """The data set card: Hugging Face front matter, then how the rows came to be and what they are not."""
    size = next(
        s
        for n, s in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**12, "100K<n<1M"))
        if len(rows.rows) < n
    )
    models = sorted({r["teacher"] for r in rows.rows}) or [config.teacher.model]
    grounded = config.source.name == "corpus"
    origin = (
        "passages of its makers' own documents" if grounded else f"{len(rows.seeds):,} seed tasks and other known rows"
    )
    dropped = "\n".join(f"| {reason} | {number:,} |" for reason, number in figures["dropped"].items())
    filters = json.dumps(vars(config.filters), ensure_ascii=False)
    return f"""---
language: ["{config.language.replace("_", "-")}"]
license: other
task_categories: [text-generation]
tags: [instruction-tuning, synthetic]
size_categories: [{size}]
configs:
- config_name: default
  data_files: {json.dumps(Path(config.output).name, ensure_ascii=False)}
---
# {len(rows.rows):,} generated instructions

Written by {", ".join(models)} from {origin}{f", on the subject of {config.topic}" if config.topic else ""}. Columns: instruction, input (may be
empty), output; for each row its teacher, request, share of tokens and cost, {"file, characters and support of its passage, " if grounded else ""}and its most similar
instructions among the seeds and the earlier rows.

## How
- {figures["replies"]:,} replies were used; {figures["spent"]["requests"]:,} requests were sent in all. Items asked for in each: {config.source.items}.
- An instruction whose ROUGE-L F1 with a seed or an earlier row is above {config.dedupe.threshold:g} was dropped.
- Filters (null: the default of the language): `{filters}`
- Tokens: {figures["spent"]["prompt_tokens"]:,} of prompts, {figures["spent"]["completion_tokens"]:,} of replies; cost ${figures["spent"]["usd"]:.4f}.

| dropped for | items |
|---|---|
{dropped or "| nothing | 0 |"}

## Limits
The rows are machine-written and were not checked by people: they hold errors, and the biases of their teacher. {"Support is measured by shared words, which does not prove that an answer is right." if grounded else "Nothing grounds the answers in a source."}

## Licence
Not settled by this file. The terms of the teacher's provider may limit the use of its output (some forbid training models that
compete with them), and the licence of the {"documents" if grounded else "seed tasks"} applies as well: set `license` above after checking both.
"""
