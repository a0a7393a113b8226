"""What finished runs and evaluations say about published figures. Reads folders, loads no weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.evaluation import outcome, recipes
from alpaca.evaluation.published import HUMAN, SIZES, TEST, VARIANTS, VOTED
from alpaca.results import RunFolder

Values = Iterator[tuple[str, Any]]


def read(folder: str) -> Values:
    """Figures of a run folder of train.py, with what its evaluations/ holds, or of a folder of evaluate.py."""
    path = Path(folder)
    if (path / "metrics.jsonl").is_file() and (path / "config.yaml").is_file():
        yield from _run(path)
    elif (path / outcome.FILE).is_file():
        yield from _evaluation(_load(path / outcome.FILE))
    else:
        raise UserError(f"ledger.runs: {folder} is no run folder and no evaluation's folder: give one that finished")


def _run(path: Path) -> Values:
    run = RunFolder(path)
    status = run.read_result().get("status", "not finished")
    if status != "completed":
        raise UserError(f"ledger.runs: {path} is not completed ({status}): run its training again to go on")
    config = recipes.read_config(str(path))
    here = recipes.aspects(config)
    found = list(_matches(here))
    if not found:
        name = recipes.nearest(here)
        differing = ", ".join(d.aspect for d in recipes.compare(here, name))
        console.warn(f"{path} fills no row: it is nearest to {name}, but differs in {differing}")
    for recipe, label in found:
        if recipe == "stanford_alpaca_7b":
            yield from _stanford(run)
        if label and (path / "evaluations" / "mmlu.json").is_file():
            yield from _mmlu(_load(path / "evaluations" / "mmlu.json"), f"{label} {recipe.rpartition('_')[2].upper()}")


def _matches(here: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(recipe, label of its MMLU row) for every recipe that these settings are, in all aspects."""
    for recipe in recipes.RECIPES:
        if not recipe.startswith("qlora"):
            if not recipes.compare(here, recipe):
                yield recipe, ""
            continue
        for label, kept in VARIANTS.items():
            if not recipes.compare(here, recipe, {"base kept": kept}):
                yield recipe, label


def _stanford(run: RunFolder) -> Values:
    losses = [m["loss"] for m in run.read_metrics() if "loss" in m]
    if losses:
        yield "stanford_alpaca_7b, train loss (mean of all steps)", sum(losses) / len(losses)
    gpus = _load(run.path / "environment.json").get("gpus") or []
    seconds = run.read_result().get("seconds")
    if len(gpus) in (4, 8) and all("A100" in g and "80" in g for g in gpus) and seconds is not None:
        yield f"stanford_alpaca_7b, seconds on {len(gpus)} A100-80G", seconds


def _evaluation(found: dict[str, Any]) -> Values:
    if found["task"] == "mmlu" and found.get("adapter") is None and found.get("run") is None:
        size = next((s for s, count in SIZES.items() if count == found.get("parameters")), None)
        if size is None:
            console.warn(f"the evaluation of {found.get('model')} fills no row: its size is none of LLaMA's")
        else:
            yield from _mmlu(found, f"LLaMA {size} untuned")
    elif found["task"] == "votes":
        yield from _votes(found)
    else:
        console.warn(f"an evaluation of task={found['task']} fills no row by itself: give the run folder it is about")


def _votes(found: dict[str, Any]) -> Values:
    """The human comparison: a run of the 7B recipe against a file whose name says that text-davinci-003 answered."""
    wins, decided = found["figures"]["wins"], found["figures"]["wins"] + found["figures"]["losses"]
    run, versus = found.get("run"), Path(found.get("versus") or "").name
    if not run or "stanford_alpaca_7b" not in dict(_matches(recipes.aspects(recipes.read_config(run)))):
        console.warn(f"the votes fill no row: run={run} is not of the recipe stanford_alpaca_7b")
    elif "text-davinci-003" not in versus:
        console.warn(f"the votes fill no row: versus={versus} does not say text-davinci-003 in its name")
    elif decided < VOTED:
        console.warn(
            f"the votes fill no row: {decided} questions are decided, {VOTED} were in the published comparison"
        )
    else:
        yield HUMAN, 100 * wins / decided


def _mmlu(found: dict[str, Any], label: str) -> Values:
    settings = (found.get("split"), found.get("num_fewshot"), found.get("limit"))
    if settings != ("test", 5, None):
        console.warn(f"MMLU of {label} fills no row: split, shots and limit are {settings}, published test, 5, none")
        return
    yield f"{TEST}, {label}", 100 * found["figures"]["mmlu"]["accuracy"]


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): run that evaluation again") from None
    return data if isinstance(data, dict) else {}
