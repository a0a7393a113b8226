"""The first thing a new user does: `python train.py` with no arguments, and questions to the result."""

import json
from pathlib import Path

import pytest

from tests.commands import ROOT, run_python


@pytest.mark.slow
def test_the_default_run_knows_its_tasks_by_heart(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = run_python("train.py", f"hydra.run.dir={run}", f"data.cache={tmp_path / 'cache'}", HF_HUB_OFFLINE="1")
    assert done.stdout == ""
    assert "⟦" in done.stderr and "reloaded in a fresh process" in done.stderr
    assert done.stderr.rstrip().endswith(f"python infer.py run={run} instruction='Name three primary colours.'")

    tasks = ROOT / "alpaca" / "generation" / "seed_tasks.jsonl"
    answers = tmp_path / "answers.jsonl"
    run_python("infer.py", f"run={run}", f"batch.input={tasks}", f"batch.output={answers}", "batch.size=32")
    answered = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert len(answered) == 175
    exact = [a for a in answered if a["answer"] == a["output"] and a["stopped"] == "eos"]
    assert len(exact) >= 0.9 * len(answered), f"{len(exact)} of {len(answered)}"

    question = exact[0]
    one = run_python("infer.py", f"run={run}", f"instruction={question['instruction']}", f"input={question['input']}")
    assert one.stdout == question["output"] + "\n"
