import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from alpaca.evaluation.config import AuditConfig
from alpaca.evaluation.data_audit import contamination, examine
from alpaca.generation.items import Item
from tests import forks
from tests.generation.conftest import ROOT, SHARED, shared_rows
from tests.generation.test_dedupe import package_score


@pytest.mark.parametrize("threshold", [0.0, 0.7, 1.0])
def test_every_pair_is_decided_as_the_package_does_and_copies_stand_together(threshold: float) -> None:
    rng = random.Random(4)
    texts = [" ".join(f"w{rng.randrange(5)}" for _ in range(rng.randrange(1, 5))) for _ in range(90)] + [
        "?!",
        "?!",
        "",
    ]
    found: list[dict[str, Any]] = []
    config = AuditConfig(threshold=threshold, pairs_per_row=1000)
    figures = examine([Item(t, "", "x") for t in texts], config, found.append)
    truth = [package_score(a, b) > threshold for i, a in enumerate(texts) for b in texts[:i]]
    assert figures["pairs_above_threshold"] == sum(truth)
    named = [f for f in found if f["kind"] == "similar pair"]
    pairs = sum(a * b for a, b in (f.get("copies", [1, 1]) for f in named))
    groups = [f["copies"] for f in found if f["kind"] == "copies"]
    assert pairs + sum(n * (n - 1) // 2 for n in groups) == sum(truth)
    assert bool(groups) == (threshold < 1) and all(
        len(f["rows"]) == f["copies"] for f in found if f["kind"] == "copies"
    )
    assert figures["not_compared"] == 2


def test_thousands_that_are_alike_take_little_and_the_most_similar_are_named() -> None:
    text = "Translate the following long sentence number {} into very good modern French please."
    near = [Item(text.format(f"w{i}"), "", "x") for i in range(600)] + [Item(text.format("w7 w8"), "", "x")]
    found: list[dict[str, Any]] = []
    tracemalloc.start()
    copies = [Item("Name three green fruits.", "", "x")] * 20_000
    figures = examine([*near, *copies], AuditConfig(pairs_per_row=2), found.append)
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()
    assert figures["pairs_above_threshold"] == 601 * 600 // 2 + 20_000 * 19_999 // 2
    named = [f["rows"] for f in found if f["kind"] == "similar pair"]
    assert len(named) == 2 * 600 - 1 and named[-2:] == [[7, 600], [8, 600]]
    (group,) = [f for f in found if f["kind"] == "copies"]
    assert group["copies"] == 20_000 and group["different_rows"] == 1 and figures["repeated_rows"] == 19_999


def test_contamination_by_shared_runs_and_by_likeness() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve thirteen"
    evaluation = [Item("Say a thing now", "", text), Item("Name three green fruits please", "", "x")]
    rows = [
        Item("Copy", "", "so: " + text + "."),
        Item("Copy", "", text[:-9]),
        Item("Name three green fruits", "", "y"),
    ]
    found = list(contamination(rows, evaluation, AuditConfig()))
    assert [(f["kind"], f["row"], f["of"]) for f in found] == [("13-gram", 0, 0), ("rouge_l", 2, 1)]


def test_the_command_on_real_rows(tmp_path: Path) -> None:
    rows = shared_rows("alpaca_data.json")[:3000]
    rows += [
        {**rows[5], "instruction": rows[5]["instruction"] + " please"},
        {"instruction": "Say", "input": "", "output": ""},
        *({"instruction": "Count cats within it.", "output": output} for output in (0, False, None)),
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    against = SHARED.resolve() / "data" / "user_oriented_instructions.jsonl"
    command = [str(ROOT / "evaluate.py"), "task=data_audit", f"data.path={tmp_path / 'rows.json'}"]
    done = forks.run([*command, f"audit.against=[{against}]", f"hydra.run.dir={tmp_path / 'audit'}"], tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["rows"] == 3005 and figures["pairs_above_threshold"] == 4
    assert figures["would_be_filtered"]["instruction too short"] == 1
    assert figures["would_be_filtered"]["output empty"] == 1 + sum(not r["output"] for r in rows[:3000])
    assert "2 rows have an input or output that is no text" in done.stderr
    assert "contamination user_oriented_instructions.jsonl" in figures
    findings = [json.loads(line) for line in (tmp_path / "audit" / "findings.jsonl").read_text().splitlines()]
    assert [f["rows"] for f in findings if f["kind"] == "similar pair"] == [[5, 3000]]
    assert [f["rows"] for f in findings if f["kind"] == "copies"] == [[3002, 3003, 3004]]
    assert [f["row"] for f in findings if f["kind"] == "not a text"] == [3002, 3003]
    assert "data:image/png" in (tmp_path / "audit" / "report.html").read_text()


def test_a_missing_file_is_a_line(tmp_path: Path) -> None:
    command = [str(ROOT / "evaluate.py"), "task=data_audit"]
    for more, words in (("data.path=nowhere.json", "is not there"), ("audit.ngram=13", "data.path is missing")):
        done = forks.run([*command, more], tmp_path)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
