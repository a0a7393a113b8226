"""MMLU by the harness, offline, on a few questions."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from alpaca.errors import UserError
from alpaca.evaluation.config import load


def test_a_run_answers_questions_of_a_local_folder(tiny_run: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (requirements-eval.txt)")
    from alpaca.evaluation.mmlu import mmlu

    questions = tmp_path / "mmlu"
    for name, letters in (("colours", "AABC"), ("numbers", "AAAA")):
        for split, rows in (("dev", "ABCDA"), ("test", letters)):
            (questions / split).mkdir(parents=True, exist_ok=True)
            with (questions / split / f"{name}_{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([f"Which {i}?", "red", "blue", "gold", "pink", letter] for i, letter in enumerate(rows))  # fmt: skip
    settings = {"task": "mmlu", "run": str(tiny_run), "mmlu": {"path": str(questions)}}
    mmlu(load(settings), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    subjects = found["figures"]["subjects"]
    assert set(subjects) == {"colours", "numbers"} and found["figures"]["mmlu"]["questions"] == 8
    assert found["figures"]["mmlu"]["accuracy"] == (subjects["colours"] + subjects["numbers"]) / 2
    assert (found["split"], found["num_fewshot"], found["limit"]) == ("test", 5, None)
    assert json.loads(capsys.readouterr().out) == found["figures"]["mmlu"]
    with pytest.raises(UserError, match="has no val/SUBJECT_val.csv"):
        mmlu(load(settings | {"mmlu": {"path": str(questions), "split": "validation"}}), tmp_path / "other")
    with (questions / "test" / "numbers_test.csv").open("a") as file:
        file.write("only a question\n")
    with pytest.raises(UserError, match="numbers_test.csv, row 5"):
        mmlu(load(settings), tmp_path / "other")
