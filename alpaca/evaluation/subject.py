"""The model that is judged, and the rows it is judged on. Knows no scores."""

from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.evaluation.config import EvaluateConfig
from alpaca.generation.requests import first_instance, read_rows
from alpaca.infer_config import BatchFiles, InferConfig

SPOKEN = ("answer", "prediction", "response", "completion", "generated_text", "output")
"""Where a file of predictions may keep its text, the first that it has."""


def infer_config(config: EvaluateConfig, size: int = 32) -> InferConfig:
    """The settings with which infer.py would load and ask this model."""
    return InferConfig(
        run=config.run, model=config.model, adapter=config.adapter, prompt=config.prompt,
        device=config.device, trust_remote_code=config.trust_remote_code,
        max_new_tokens=config.max_new_tokens, batch=BatchFiles(size=size),
    )  # fmt: skip


def settings(config: EvaluateConfig) -> dict[str, Any]:
    """What evaluation.json says of the subject."""
    names = ("run", "model", "adapter", "prompt", "predictions", "limit")
    return {name: getattr(config, name) for name in names} | {"data": config.data.path}


def rows(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Rows with instruction, input, output and category: of data.path, else of the run's validation set."""
    if config.data.path is not None:
        path = Path(config.data.path)
        found = [_row(item, f"{path}, row {number}") for number, item in enumerate(read_rows(path), 1)]
    elif config.run is not None:
        found = [{**row, "category": ""} for row in _validation(config.run)]
    else:
        assert config.predictions is not None
        path = Path(config.predictions)
        found = [_row(item, f"{path}, row {number}") for number, item in enumerate(read_rows(path), 1)]
    if not found:
        raise UserError(f"{config.data.path or config.run or config.predictions} holds no rows to judge: give a file of rows, data.path=FILE")  # fmt: skip
    return found[: config.limit]


def _row(item: Any, place: str) -> dict[str, Any]:
    if not isinstance(item, dict) or not isinstance(item.get("instruction"), str) or not item["instruction"].strip():
        raise UserError(f"{place} has no `instruction`: rows take instruction, input and output")
    given = {k: item.get(k, first_instance(item).get(k)) for k in ("input", "output")}
    category = item.get("category", item.get("motivation_app", ""))
    return {
        "instruction": item["instruction"],
        "input": str(given["input"] or ""),
        "output": str(given["output"] or ""),
        "category": str(category or ""),
    }


def _validation(run: str) -> list[dict[str, str]]:
    from alpaca import rows as training_rows
    from alpaca.evaluation import recipes

    if not Path(run, "config.yaml").is_file():
        raise UserError(f"run={run} has no config.yaml: it takes the run folder that train.py printed (weights go into model=)")  # fmt: skip
    data = recipes.read_config(run).data
    if not data.validation:
        raise UserError(f"run={run} held no rows out for validation: give a file of rows, data.path=FILE")
    read = training_rows.read(data).rows
    return [read[i] for i in training_rows.split(len(read), data.validation)[1]]


def answers(config: EvaluateConfig, asked: list[dict[str, Any]], run_dir: Path) -> list[dict[str, Any]]:
    """Rows with `answer` and, where known, `stopped`: from the predictions file, else asked now (predictions.jsonl)."""
    if config.predictions is not None:
        return predictions(Path(config.predictions), asked, config.data.path is not None, config.limit)
    from alpaca import answering

    run_dir.mkdir(parents=True, exist_ok=True)
    infer = infer_config(config)
    with console.results_only_on_stdout():
        loaded = answering.load(infer)
    output = run_dir / "predictions.jsonl"
    answering.answer_file(loaded, answering.sampling_of(infer), asked, output, infer)
    return read_rows(output)


def predictions(path: Path, asked: list[dict[str, Any]], apart: bool, limit: int | None = None) -> list[dict[str, Any]]:
    """Answers of a file, in the order of `asked`; `apart`: the references are in another file."""
    found = read_rows(path)[:limit]
    if not found:
        raise UserError(f"{path} holds no answers: it takes a row for each question, in order")
    if len(found) != len(asked):
        raise UserError(f"{path} has {len(found)} rows, and there are {len(asked)} to judge: one for each, in order")  # fmt: skip
    keys = SPOKEN if apart else SPOKEN[:-1]
    result = []
    for number, (item, row) in enumerate(zip(found, asked, strict=True), 1):
        if isinstance(item, str):
            item = {"answer": item}
        if apart and isinstance(item, dict):
            item = {"output": first_instance(item).get("output")} | item
        key = next((k for k in keys if isinstance(item, dict) and isinstance(item.get(k), str)), None)
        if key is None:
            raise UserError(f"{path}, row {number} has no text under {', '.join(keys)}")
        for name in ("instruction", "input"):
            if name in item and str(item[name] or "") != row[name]:
                raise UserError(f"{path}, row {number} answers another {name} than row {number} of the references: keep their order")  # fmt: skip
        result.append({**row, "answer": item[key], "stopped": item.get("stopped")})
    return result
