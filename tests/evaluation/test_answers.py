"""Answers against references, and perplexity: the scores are rouge_score's and the Trainer's own."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from alpaca.errors import UserError
from alpaca.evaluation.config import load
from alpaca.evaluation.instructions import guess, instructions, interval, score
from alpaca.evaluation.perplexity import perplexity
from tests.commands import run_python


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())["figures"]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def test_ready_predictions_of_real_tasks_score_as_rouge_score_says(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "user_oriented_instructions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    outputs = [r["instances"][0]["output"] for r in rows]
    said = [o if i % 3 == 0 else outputs[i - 1] + " and more" for i, o in enumerate(outputs)]
    file = write(tmp_path / "said.jsonl", [{"instruction": r["instruction"], "answer": a, "stopped": "length" if i else "eos"} for i, (r, a) in enumerate(zip(rows, said, strict=True))])  # fmt: skip
    done = run_python("evaluate.py", "task=instructions", f"predictions={file}", f"data.path={path}", f"hydra.run.dir={tmp_path / 'out'}")  # fmt: skip
    found = json.loads(done.stdout)
    scorer = RougeScorer(["rougeL"])
    expected = [scorer.score(o, a)["rougeL"].fmeasure for o, a in zip(outputs, said, strict=True)]
    assert found["rows"] == 252 and found["rouge_l"] == pytest.approx(sum(expected) / 252, abs=1e-12)
    assert found["exact_match"] == pytest.approx(sum(o.strip() == a.strip() for o, a in zip(outputs, said, strict=True)) / 252)  # fmt: skip
    assert found["stop_rate"] == pytest.approx(1 / 252)
    low, high = found["rouge_l_95"]
    assert low < found["rouge_l"] < high
    assert len(figures(tmp_path / "out")["categories"]) == len({r["motivation_app"] for r in rows})
    assert (tmp_path / "out" / "rouge_l.png").is_file()
    assert "Grammarly" in (tmp_path / "out" / "report.html").read_text()


def test_chinese_is_compared_by_character() -> None:
    row = {"instruction": "问", "output": "今天天气很好", "answer": "今天很好"}
    assert guess([row["output"]]) == "zh" and guess(["Good weather"]) == "en" and guess(["Хорошая погода"]) == "other"
    scored = score([row], "zh")[0]
    assert scored["rouge_l"] == pytest.approx(2 * 4 / 10) and scored["length"] == 4
    assert score([row], "en")[0]["rouge_l"] == 0  # what rouge_score's own tokens would say


def test_an_interval_is_that_of_the_mean() -> None:
    low, high = interval([0.0] * 50 + [1.0] * 50, seed=1)
    assert abs((high - low) / 2 - 1.96 * 0.05) < 0.015 and low < 0.5 < high


def test_a_run_answers_its_rows_and_another_run_does_not(tiny_run: Path, tiny_lora_run: Path, tiny_rows: Path, tmp_path: Path, capsys: Any) -> None:  # fmt: skip
    rows = {"path": str(tiny_rows)}
    instructions(load({"task": "instructions", "run": str(tiny_run), "data": rows}), tmp_path / "a")
    found = figures(tmp_path / "a")
    assert json.loads(capsys.readouterr().out)["exact_match"] == found["exact_match"] == 1.0 == found["rouge_l"]
    assert found["stop_rate"] == 1.0 and len((tmp_path / "a" / "predictions.jsonl").read_text().splitlines()) == 16
    assert json.loads((tiny_run / "evaluations" / "instructions.json").read_text())["figures"] == found
    cut = {"task": "instructions", "run": str(tiny_run), "data": rows, "max_new_tokens": 2, "limit": 3}
    instructions(load(cut), tmp_path / "b")
    assert figures(tmp_path / "b")["stop_rate"] == 0.0 and figures(tmp_path / "b")["rows"] == 3


def test_perplexity_is_exp_of_the_trainers_loss(tiny_run: Path, tiny_lora_run: Path, tiny_rows: Path, tmp_path: Path, capsys: Any) -> None:  # fmt: skip
    import torch
    from transformers import AutoModelForCausalLM

    from alpaca import data, prompts, tokenizer
    from alpaca.evaluation import recipes

    perplexity(load({"task": "perplexity", "run": str(tiny_run), "data": {"path": str(tiny_rows)}}), tmp_path / "a")
    found = figures(tmp_path / "a")
    config = recipes.read_config(str(tiny_run))
    own = tokenizer.load_tokenizer(str(tiny_run / "model"))
    examples = data.prepare(config, own, prompts.Prompt.load(tiny_run / "model")).train
    model = AutoModelForCausalLM.from_pretrained(tiny_run / "model").eval()
    total = tokens = 0.0
    for example in examples:
        labels = torch.tensor([example["labels"].tolist()])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([example["input_ids"].tolist()]), labels=labels).loss
        total, tokens = total + float(loss) * int((labels != -100).sum()), tokens + int((labels != -100).sum())
    assert found["tokens"] == tokens and found["loss"] == pytest.approx(total / tokens, rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    other = {"task": "perplexity", "run": str(tiny_lora_run), "data": {"path": str(tiny_rows)}}
    perplexity(load(other), tmp_path / "b")
    assert figures(tmp_path / "b")["loss"] > 2 * found["loss"]  # it learnt the words backwards


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_are_read_and_rows_without_a_reference_are_told(ending: str, tmp_path: Path, capsys: Any) -> None:
    import pandas

    from alpaca.answering import read_rows

    rows = [{"instruction": "问？", "output": "one two"}, {"instruction": "c", "output": ""}]
    for name, content in (("rows", rows), ("said", [{"completion": "one"}, {"completion": "d"}])):
        table, path = pandas.DataFrame(content), tmp_path / f"{name}.{ending}"
        table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    files = {"predictions": str(tmp_path / f"said.{ending}"), "data": {"path": str(tmp_path / f"rows.{ending}")}}
    instructions(load({"task": "instructions", **files}), tmp_path / "out")
    said = capsys.readouterr()
    expected = RougeScorer(["rougeL"]).score("one two", "one")["rougeL"].fmeasure / 2
    assert (
        json.loads(said.out)["rouge_l"] == pytest.approx(expected) and "1 of the 2 rows have no reference" in said.err
    )
    assert read_rows(tmp_path / f"rows.{ending}") == rows
    files["data"] = {"path": write(tmp_path / "none.jsonl", [{"instruction": "a", "answer": "b"}] * 2)}
    with pytest.raises(UserError, match="no row of .*none.jsonl has a reference"):
        instructions(load({"task": "instructions", **files}), tmp_path / "out")


def test_bad_input_is_a_line(tiny_run: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "said.jsonl", [{"answer": "x"}])
    rows = write(tmp_path / "rows.jsonl", [{"instruction": "a", "output": "b"}, {"instruction": "c", "output": "d"}])
    for wrong, words in (
        ({"run": str(tiny_run), "predictions": file}, "judges one thing"),
        ({"model": str(tiny_run / "model")}, "data.path is missing"),
        ({"run": str(tmp_path / "x")}, "is not there"),
        ({"predictions": file, "limit": 0}, "limit=0 is not allowed"),
    ):
        with pytest.raises(UserError, match=words):
            load({"task": "instructions", **wrong})
    with pytest.raises(UserError, match="has 1 rows, and there are 2"):
        instructions(load({"task": "instructions", "predictions": file, "data": {"path": rows}}), tmp_path / "o")
    swapped = write(
        tmp_path / "swapped.jsonl", [{"instruction": "c", "answer": "d"}, {"instruction": "a", "answer": "b"}]
    )
    with pytest.raises(UserError, match="row 1 answers another instruction"):
        instructions(load({"task": "instructions", "predictions": swapped, "data": {"path": rows}}), tmp_path / "o")
    with pytest.raises(UserError, match="held no rows out"):
        instructions(load({"task": "instructions", "run": str(tiny_run)}), tmp_path / "o")
