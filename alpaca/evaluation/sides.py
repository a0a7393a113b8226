"""The two that are compared: runs, weights or files of answers, and what each said to the same questions.

A is run=, model= or predictions=; B is versus=. Knows no judge.
"""

import gc
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.evaluation import subject
from alpaca.evaluation.config import EvaluateConfig
from alpaca.infer_config import InferConfig
from alpaca.results import RunFolder


@dataclass(frozen=True)
class Side:
    """One of the two: its name in tables, and what it is."""

    name: str
    kind: str
    """run, weights or predictions."""
    place: str
    infer: InferConfig | None = None


def pair(config: EvaluateConfig) -> tuple[Side, Side]:
    """A and B. Raises UserError where one of them cannot answer, before anything is loaded or asked."""
    import dataclasses

    place = config.versus or ""
    other = dataclasses.replace(config, run=None, model=None, adapter=None, predictions=None)
    if Path(place).is_file():
        other.predictions = place
    elif is_run(place):
        other.run = place
    else:
        other.model = place
    sides = []
    for one in (config, other):
        kind = "predictions" if one.predictions else "run" if one.run else "weights"
        named = one.predictions or one.run or one.adapter or one.model or ""
        infer = None if kind == "predictions" else subject.infer_config(one)
        sides.append(Side(named.rstrip("/"), kind, named, infer))
        _check(sides[-1])
    a, b = sides
    if a.name == b.name:
        raise UserError(f"both sides are {a.name}: give another versus=")
    return tuple(dataclasses.replace(s, name=n) for s, n in zip(sides, short_names(a.name, b.name), strict=True))  # type: ignore[return-value]


def short_names(a: str, b: str) -> tuple[str, str]:
    """Two paths without the folders that both begin with."""
    one, two = Path(a).parts, Path(b).parts
    same = 0
    while same < min(len(one), len(two)) - 1 and one[same] == two[same]:
        same += 1
    return str(Path(*one[same:])), str(Path(*two[same:]))


def is_run(place: str) -> bool:
    """Whether a folder is a training run's, and not weights alone."""
    return Path(place, "metrics.jsonl").is_file() or Path(place, "config.yaml").is_file()


def _check(side: Side) -> None:
    if side.kind == "run" and not RunFolder(side.place).model.is_dir():
        status = RunFolder(side.place).read_result().get("status")
        why = f"has no model/ yet ({status})" if status else "is no run folder with a finished model/"
        raise UserError(f"{side.place} {why}: give the folder of a finished train.py, weights or a file of answers")
    weights = Path(side.infer.model) if side.infer and side.infer.model else None
    if weights and weights.is_dir() and not (weights / "config.json").is_file():
        raise UserError(f"{side.place} holds no run and no weights: give a run folder, a folder of weights or a file of answers")  # fmt: skip


def answers(sides: tuple[Side, Side], questions: list[dict[str, Any]], config: EvaluateConfig, run_dir: Path) -> list[list[str]]:  # fmt: skip
    """What each side says to each question; files are read before models are loaded."""
    found = [known(side, questions, config, run_dir) for side in sides]
    return [said or _ask(side, sides, questions, run_dir) for side, said in zip(sides, found, strict=True)]


def known(side: Side, questions: list[dict[str, Any]], config: EvaluateConfig, run_dir: Path) -> list[str] | None:
    """Answers that need no model: those of a file, or those that the same weights gave before."""
    if side.infer is None:
        return [r["answer"] for r in subject.predictions(Path(side.place), questions, True, config.limit)]
    path = _kept(side, questions, run_dir)
    return [r["answer"] for r in subject.read_rows(path)] if path.is_file() else None


def _kept(side: Side, questions: list[dict[str, Any]], run_dir: Path) -> Path:
    """answers-KEY.jsonl: the key stands for the weights, the settings and the questions."""
    from alpaca import answering

    assert side.infer is not None
    asked = [(q["instruction"], q["input"]) for q in questions]
    content = json.dumps([repr(side.infer), answering.weights_stamp(side.infer), asked])
    return run_dir / f"answers-{hashlib.sha256(content.encode()).hexdigest()[:12]}.jsonl"


def _ask(side: Side, sides: tuple[Side, Side], questions: list[dict[str, Any]], run_dir: Path) -> list[str]:
    """Load the model, answer, and give the memory back for the other one."""
    from transformers.utils import logging

    from alpaca import answering

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    assert side.infer is not None
    run_dir.mkdir(parents=True, exist_ok=True)
    path = _kept(side, questions, run_dir)
    console.say(f"answers of {side.name}:")
    with console.results_only_on_stdout():
        loaded = _load(side, sides)
    answering.answer_file(loaded, answering.sampling_of(side.infer), questions, path, side.infer)
    del loaded
    gc.collect()
    import torch

    torch.cuda.empty_cache()
    return [r["answer"] for r in subject.read_rows(path)]


def _load(side: Side, sides: tuple[Side, Side]) -> Any:
    """Weights that carry no prompt are asked in that of the run they are compared with."""
    from alpaca import answering
    from alpaca.inference import load_weights
    from alpaca.prompts import FILE, Prompt

    infer = side.infer
    assert infer is not None
    runs = [RunFolder(s.place).model for s in sides if s.kind == "run"]
    bare = infer.model is not None and not any(Path(p, FILE).is_file() for p in (infer.adapter, infer.model) if p)
    if infer.prompt or not bare or not runs:
        return answering.load(infer)
    assert infer.model is not None
    console.say(f"{side.name} carries no prompt: asked in that of {runs[0].parent}")
    return load_weights(
        infer.model, infer.adapter, trust_remote_code=infer.trust_remote_code, prompt=Prompt.load(runs[0]),
        device=infer.device, merge=True,
    )  # fmt: skip


def seen_in_training(side: Side, questions: list[dict[str, Any]]) -> int | None:
    """How many of the questions a run was trained on; None where that is not known."""
    from alpaca import rows as training_rows
    from alpaca.evaluation import recipes

    if side.kind != "run":
        return None
    try:
        data = recipes.read_config(side.place).data
        if data.path is None:  # rows of a hub are not fetched for this
            return None
        with console.muted():
            read = training_rows.read(data).rows
    except Exception:  # its file of rows has moved: that is no reason not to compare
        return None
    trained = training_rows.split(len(read), data.validation)[0]
    taught = {(read[i]["instruction"].strip(), (read[i].get("input") or "").strip()) for i in trained}
    return sum((q["instruction"].strip(), q["input"].strip()) in taught for q in questions)
