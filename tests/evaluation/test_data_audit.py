import json
import subprocess
import sys
from pathlib import Path

from alpaca.evaluation.config import AuditConfig
from alpaca.evaluation.data_audit import contamination
from alpaca.generation.items import Item
from tests.generation.conftest import ROOT, SHARED, shared_rows


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
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    against = SHARED.resolve() / "data" / "user_oriented_instructions.jsonl"
    command = [sys.executable, str(ROOT / "evaluate.py"), "task=data_audit", f"data.path={tmp_path / 'rows.json'}"]
    done = subprocess.run(
        [*command, f"audit.against=[{against}]", f"hydra.run.dir={tmp_path / 'audit'}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["rows"] == 3002 and figures["pairs_above_threshold"] == 1
    assert figures["would_be_filtered"]["instruction too short"] == 1
    assert "contamination user_oriented_instructions.jsonl" in figures
    findings = [json.loads(line) for line in (tmp_path / "audit" / "findings.jsonl").read_text().splitlines()]
    assert [f["rows"] for f in findings if f["kind"] == "similar pair"] == [[5, 3000]]
    assert "data:image/png" in (tmp_path / "audit" / "report.html").read_text()


def test_a_missing_file_is_a_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "evaluate.py"), "task=data_audit"]
    for more, words in (("data.path=nowhere.json", "is not there"), ("audit.ngram=13", "data.path is missing")):
        done = subprocess.run([*command, more], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
