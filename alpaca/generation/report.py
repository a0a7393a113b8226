"""report.html, its pictures and the data set card beside the rows: what a person, or the hub, needs to see.

One HTML file with everything in it, which opens offline. Knows figures and rows, no pipeline.
"""

import json
from pathlib import Path
from typing import Any

from alpaca.generation import figures as count
from alpaca.generation.config import GenerateConfig
from alpaca.generation.journal import write_beside
from alpaca.generation.rows import Rows
from alpaca.generation.tokens import by_character
from alpaca.page import Page


def write_report(config: GenerateConfig, rows: Rows, figures: dict[str, Any]) -> None:
    """report.html, pictures and README.md in the folder of the rows."""
    folder, page = Path(config.output).parent, Page(f"Generated instructions: {Path(config.output).name}")
    funnel = _funnel(rows)
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
    page.picture(
        "funnel",
        _bars({"asked": funnel["asked"], "parsed": funnel["parsed"], **figures["dropped"], "kept": len(rows.rows)}),
    )
    if rows.history:
        page.picture("requests", _over_requests(rows.history))
    spent = figures["spent"]
    page.heading("Cost")
    page.table([(k.replace("_", " "), f"{v:,.4f}" if isinstance(v, float) else f"{v:,}") for k, v in spent.items()])
    add_rows(page, rows.rows, config.language, rows.known[: rows.seeds])
    page.write(folder)
    write_beside(folder / "README.md", card(config, rows, figures))


def _funnel(rows: Rows) -> dict[str, int]:
    return {"asked": len(rows.history) * rows.config.source.items, "parsed": sum(h["parsed"] for h in rows.history)}


def add_rows(page: Page, rows: list[dict[str, Any]], language: str, against: list[str]) -> None:
    """What any set of rows shows: lengths, nearest instructions, verbs, samples."""
    if not rows:
        page.text("No rows.")
        return
    unit = "characters" if by_character(language) else "words"
    page.heading(f"Lengths in {unit}")
    page.picture("lengths", _histograms(count.lengths(rows, language), unit))
    page.heading("ROUGE-L F1 to the nearest instruction")
    to_seed, to_row = count.nearest_scores([r["instruction"] for r in rows], language, against)
    page.picture("nearest", _histograms({"nearest seed": to_seed, "nearest other row": to_row}, "ROUGE-L F1"))
    pairs, method = count.verbs(rows, language)
    page.heading("Root verbs with their objects")
    page.text(f"Found in {sum(pairs.values()):,} of {len(rows):,} instructions; method: {method}.")
    if pairs and (not by_character(language) or _cjk_fonts()):
        page.picture("verbs", _sunburst(pairs))
    elif pairs:
        page.text("No picture: no installed font has these characters.")
    if pairs:
        page.table([(f"{verb} {noun}", n) for (verb, noun), n in pairs.most_common(20)])
    page.heading("Samples")
    for row in rows[:: max(1, len(rows) // 10)][:10]:
        parts = {k: row.get(k) for k in ("instruction", "input", "output") if row.get(k)}
        page.quote("\n".join(f"{k}: {v}" for k, v in parts.items()))


def _figure(width: float = 8, height: float = 3.2, **options: Any) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    if fonts := _cjk_fonts():
        matplotlib.rcParams["font.sans-serif"] = [*fonts[:1], "DejaVu Sans"]
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(**options)


def _cjk_fonts() -> list[str]:
    import matplotlib.font_manager as fonts

    marks = ("CJK", "WenQuanYi", "SimHei", "PingFang", "YaHei")
    return sorted({f.name for f in fonts.fontManager.ttflist if any(m in f.name for m in marks)})


def _bars(values: dict[str, int]) -> Any:
    figure, axes = _figure(height=0.6 + 0.3 * len(values))
    bars = axes.barh(list(values), list(values.values()), color="#4477aa")
    axes.bar_label(bars)
    axes.invert_yaxis()
    return figure


def _over_requests(history: list[dict[str, Any]]) -> Any:
    figure, axes = _figure()
    axes.plot([h["parsed"] for h in history], ".", markersize=3, label="parsed", color="#bbbbbb")
    axes.plot([h["kept"] for h in history], ".", markersize=3, label="kept", color="#4477aa")
    axes.set_xlabel("request")
    axes.set_ylabel("rows")
    axes.legend()
    return figure


def _histograms(values: dict[str, list[Any]], unit: str) -> Any:
    figure, axes = _figure(ncols=len(values), squeeze=False)
    for place, (name, numbers) in zip(axes[0], values.items(), strict=True):
        high = sorted(numbers)[int(0.99 * (len(numbers) - 1))] if numbers else 1
        place.hist(numbers, bins=40, range=(0, max(high, 1)), color="#4477aa")
        place.set_title(f"{name} ({len(numbers):,})")
        place.set_xlabel(unit)
    figure.tight_layout()
    return figure


def _sunburst(pairs: Any) -> Any:
    """Twenty verbs inside, up to four objects of each outside, as the Self-Instruct paper draws them."""
    verbs: dict[str, int] = {}
    for (verb, _), number in pairs.items():
        verbs[verb] = verbs.get(verb, 0) + number
    top = sorted(verbs, key=lambda v: (-verbs[v], v))[:20]
    figure, axes = _figure(7, 7)
    shades = [f"C{i % 10}" for i in range(len(top))]
    outer, names, colours = [], [], []
    for verb, shade in zip(top, shades, strict=True):
        nouns = sorted(((n, noun) for (v, noun), n in pairs.items() if v == verb), reverse=True)[:4]
        outer += [n for n, _ in nouns] + [verbs[verb] - sum(n for n, _ in nouns)]
        names += [noun for _, noun in nouns] + [""]
        colours += [(shade, 0.5)] * len(nouns) + ["white"]
    white = {"edgecolor": "white", "linewidth": 0.4}
    axes.pie([verbs[v] for v in top], radius=0.7, labels=top, labeldistance=0.6, colors=shades, rotatelabels=True, textprops={"fontsize": 7, "ha": "center"}, wedgeprops=white)  # fmt: skip
    axes.pie(outer, radius=1.0, labels=names, labeldistance=0.75, colors=colours, rotatelabels=True, textprops={"fontsize": 6}, wedgeprops={"width": 0.3, **white})  # fmt: skip
    return figure


def card(config: GenerateConfig, rows: Rows, figures: dict[str, Any]) -> str:
    """The data set card: Hugging Face front matter, then how the rows came to be and what they are not."""
    size = next(
        s
        for n, s in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**12, "100K<n<1M"))
        if len(rows.rows) < n
    )
    models = sorted({r["teacher"] for r in rows.rows}) or [config.teacher.model]
    grounded = config.source.name == "corpus"
    origin = "passages of its makers' own documents" if grounded else f"{rows.seeds:,} seed tasks and other known rows"
    dropped = "\n".join(f"| {reason} | {number:,} |" for reason, number in figures["dropped"].items())
    filters = json.dumps(vars(config.filters), ensure_ascii=False)
    return f"""---
language: [{config.language}]
license: other
task_categories: [text-generation]
tags: [instruction-tuning, synthetic]
size_categories: [{size}]
configs:
- config_name: default
  data_files: {Path(config.output).name}
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
