"""task=mmlu: EleutherAI's harness (lm-eval) on the model, with the paper's test split and five examples."""

import csv
import json
from pathlib import Path
from typing import Any

from alpaca import answering, console
from alpaca.errors import UserError, first_line
from alpaca.evaluation import outcome, subject
from alpaca.evaluation.config import EvaluateConfig
from alpaca.page import Page

_TEXT = "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"


def mmlu(config: EvaluateConfig, run_dir: Path) -> None:
    """Print the accuracy as JSON; a page with every subject lies in `run_dir`."""
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise UserError("task=mmlu needs EleutherAI's harness: pip install -r requirements-eval.txt") from None
    settings = config.mmlu
    tasks: list[Any] = ["mmlu"] if settings.path is None else local_tasks(Path(settings.path), settings.split)
    if settings.path is None and settings.split != "test":
        raise UserError("mmlu.split=validation needs the questions in a folder, mmlu.path=DIR")
    with console.results_only_on_stdout():
        loaded = answering.load(subject.infer_config(config))
        harness = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=settings.batch_size)
        try:
            found = lm_eval.simple_evaluate(
                harness, tasks=tasks, num_fewshot=settings.num_fewshot, limit=config.limit, bootstrap_iters=0
            )
        except (OSError, ConnectionError) as error:
            raise UserError(f"MMLU cannot be had from the hub ({first_line(error)}): give mmlu.path=DIR") from None
    counts = {n: (r["acc,none"], found["n-samples"][n]["effective"]) for n, r in found["results"].items() if n in found["n-samples"]}  # fmt: skip
    total = sum(n for _, n in counts.values())
    accuracy = sum(a * n for a, n in counts.values()) / total
    figures = {"mmlu": {"accuracy": accuracy, "questions": total}, "subjects": {n: a for n, (a, _) in counts.items()}}
    told = subject.settings(config) | {"split": settings.split, "num_fewshot": settings.num_fewshot}
    told |= {"parameters": sum(p.numel() for p in loaded.model.parameters())}
    page = Page(f"MMLU: {config.run or config.model}")
    page.text(f"{100 * accuracy:.2f} % of {total:,} questions, {settings.num_fewshot} examples, split {settings.split}")
    page.table([(n, f"{100 * a:.1f} %", q) for n, (a, q) in sorted(counts.items())], ("subject", "right", "questions"))
    outcome.write(run_dir, "mmlu", told, figures, page)
    print(json.dumps(figures["mmlu"]))
    outcome.done(run_dir, f"MMLU {100 * accuracy:.2f} %")


def local_tasks(folder: Path, split: str) -> list[dict[str, Any]]:
    """The harness's tasks for a folder laid out as MMLU's own archive: dev/X_dev.csv, test/X_test.csv, val/X_val.csv."""
    short = "test" if split == "test" else "val"
    files = sorted((folder / short).glob(f"*_{short}.csv"))
    if not files:
        raise UserError(f"mmlu.path={folder} has no {short}/SUBJECT_{short}.csv: it takes MMLU's own folder (dev, val, test)")  # fmt: skip
    return [_task(folder, path, path.stem.removesuffix(f"_{short}")) for path in files]


def _task(folder: Path, path: Path, name: str) -> dict[str, Any]:
    examples = folder / "dev" / f"{name}_dev.csv"
    if not examples.is_file():
        raise UserError(f"{examples} is not there: the examples of {name} come from it")

    def rows(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict

        return DatasetDict({"test": Dataset.from_list(read(path)), "dev": Dataset.from_list(read(examples))})

    about = name.replace("_", " ")
    return {
        "task": name, "custom_dataset": rows, "test_split": "test", "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"}, "output_type": "multiple_choice",
        "description": f"The following are multiple choice questions (with answers) about {about}.\n\n",
        "doc_to_text": _TEXT, "doc_to_choice": ["A", "B", "C", "D"], "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    """Questions of a CSV without a heading: question, four choices, letter. Raises UserError with the line."""
    result = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, cells in enumerate(csv.reader(file), 1):
            if len(cells) != 6 or cells[5] not in ("A", "B", "C", "D"):
                raise UserError(f"{path}, row {number}: it takes a question, four choices and a letter from A to D")
            result.append({"question": cells[0], "choices": cells[1:5], "answer": "ABCD".index(cells[5])})
    return result
