"""task=instructions: answers against references. ROUGE-L by the rouge_score package, exact match, length, stop rate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.evaluation import outcome, subject
from alpaca.evaluation.config import EvaluateConfig
from alpaca.generation.tokens import by_character, universal
from alpaca.page import Page

RESAMPLES = 2000


class Universal:
    """rouge_score's tokenizer for languages other than English: its own keeps [a-z0-9] alone."""

    def tokenize(self, text: str) -> list[str]:
        """Characters of unspaced scripts, whole words of the others."""
        return universal(text)


def instructions(config: EvaluateConfig, run_dir: Path) -> None:
    """Print the figures as JSON; scores.jsonl, a page and a picture go into `run_dir`."""
    asked = subject.rows(config)
    if lacking := sum(not r["output"].strip() for r in asked):
        if lacking == len(asked):
            raise UserError(f"no row of {config.data.path or config.run or config.predictions} has a reference under `output`: rows take instruction, input and output")  # fmt: skip
        console.warn(f"{lacking} of the {len(asked)} rows have no reference: whatever is answered there scores 0")
    answered = subject.answers(config, asked, run_dir)
    language = config.instructions.language
    if language == "auto":
        language = guess([r["output"] or r["instruction"] for r in asked])
    scored = score(answered, language, config.instructions.stemmer)
    figures = summary(scored, config.seed)
    categories = {c: summary([r for r in scored if r["category"] == c], config.seed) for c in sorted({r["category"] for r in scored}) if c}  # fmt: skip
    run_dir.mkdir(parents=True, exist_ok=True)
    outcome.write_lines(run_dir / "scores.jsonl", scored)
    page = Page(f"Instructions: {config.run or config.model or config.predictions}")
    unit = "characters" if by_character(language) else "words"
    page.table([(k.replace("_", " "), _show(v)) for k, v in figures.items()])
    page.text(f"Language {language}, lengths in {unit}. Intervals: 95 %, {RESAMPLES} bootstrap resamples of the rows.")
    page.picture("rouge_l", _histogram([r["rouge_l"] for r in scored]))
    if categories:
        page.heading("By category")
        head = ("category", "rows", "ROUGE-L F1", "95 %", "exact match", "stopped")
        page.table([(c, f["rows"], _show(f["rouge_l"]), _show(f["rouge_l_95"]), _show(f["exact_match"]), _show(f["stop_rate"])) for c, f in categories.items()], head)  # fmt: skip
    page.heading("Lowest, middle and highest")
    ranked = sorted(scored, key=lambda r: r["rouge_l"])
    for row in [*ranked[:3], *ranked[len(ranked) // 2 :][:3], *ranked[-3:]]:
        page.quote(f"{row['instruction']}\n{row['input']}\n\nreference: {row['output']}\nanswer: {row['answer']}\nROUGE-L {row['rouge_l']:.3f}")  # fmt: skip
    told = subject.settings(config) | {"language": language, "stemmer": config.instructions.stemmer}
    outcome.write(run_dir, "instructions", told, figures | {"categories": categories}, page)
    print(json.dumps(figures, ensure_ascii=False))
    outcome.done(run_dir, f"{figures['rows']} rows, ROUGE-L F1 {figures['rouge_l']:.4f}")


def guess(texts: list[str]) -> str:
    """zh where more than a fifth of the letters are Han characters, else en where most are ASCII, else the rule of all others."""
    letters = [c for t in texts for c in t if c.isalpha()]
    if sum("\u4e00" <= c <= "\u9fff" for c in letters) > len(letters) / 5:
        return "zh"
    return "en" if sum(c.isascii() for c in letters) >= 0.5 * len(letters) else "other"


def score(rows: list[dict[str, Any]], language: str, stemmer: bool = False) -> list[dict[str, Any]]:
    """Rows with rouge_l (F1, 0 to 1), exact_match and length of the answer."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=stemmer, tokenizer=None if language == "en" else Universal())
    count = (lambda t: len("".join(t.split()))) if by_character(language) else (lambda t: len(t.split()))
    return [
        {
            **row,
            "rouge_l": scorer.score(row["output"], row["answer"])["rougeL"].fmeasure,
            "exact_match": row["answer"].strip() == row["output"].strip(),
            "length": count(row["answer"]),
        }
        for row in rows
    ]


def summary(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Means, and the 95 % interval of each by bootstrap; stop_rate is None where it is not known."""
    ends = [r["stopped"] != "length" for r in rows if r.get("stopped")]
    values: dict[str, Sequence[float]] = {
        "rouge_l": [r["rouge_l"] for r in rows],
        "exact_match": [r["exact_match"] for r in rows],
        "length": [r["length"] for r in rows],
        "stop_rate": ends if len(ends) == len(rows) else [],
    }
    result: dict[str, Any] = {"rows": len(rows)}
    for name, numbers in values.items():
        result[name] = float(sum(numbers)) / len(numbers) if numbers else None
        result[f"{name}_95"] = interval(numbers, seed) if numbers else None
    return result


def interval(values: Sequence[float], seed: int) -> list[float]:
    """The 2.5 and 97.5 % points of the mean over resamples of the rows."""
    import numpy as np

    rng, numbers = np.random.default_rng(seed), np.asarray(values, dtype=np.float64)
    means = [float(numbers[rng.integers(0, len(numbers), len(numbers))].mean()) for _ in range(RESAMPLES)]
    return [float(x) for x in np.percentile(means, [2.5, 97.5])]


def _histogram(scores: list[float]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2))
    axes = figure.subplots()
    axes.hist(scores, bins=40, range=(0, 1), color="#4477aa")
    axes.set(xlabel="ROUGE-L F1 with the reference", ylabel="rows")
    return figure


def _show(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(f"{v:.4f}" for v in value)
    return "not known" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
