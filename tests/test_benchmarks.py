"""The benchmarks run: every GPU case shrunk to this machine, and the results file they write."""

from pathlib import Path

import pytest

from benchmarks import gpu, record


def test_every_gpu_case_runs_shrunk(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--shrink", "--only", "7B QLoRA", "OPT", "fp32 master"])
    out = capsys.readouterr().out
    for name in ("LLaMA-7B QLoRA", "OPT-6.7B LoRA", "LLaMA-7B full, fp32 master weights"):
        for way in ("fast", "plain"):
            line = next(line for line in out.splitlines() if line.startswith(f"| {name} | {way} |"))
            assert float(line.split("|")[-2]) < 0.02, line
    assert "no measurement" in out and "left out" not in out


def test_a_section_takes_the_place_of_its_older_self(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "RESULTS.md"
    for title, body in (("One", "first"), ("Two", "second"), ("One", "third")):
        record.section(title, body, str(path))
    text = path.read_text()
    assert text.startswith("# What was measured") and text.count("## One") == 1 and text.count("## Two") == 1
    assert "first" not in text and text.index("third") < text.index("second")
    assert record.section("One", "fourth", "none") is None and "fourth" not in path.read_text()
