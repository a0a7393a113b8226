"""The benchmarks run: every GPU case shrunk to this machine, and the results file they write."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import all as every
from benchmarks import dedupe, gpu, prepare_data, record, step_profile

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 2}


def test_every_gpu_case_runs_shrunk(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--shrink", "--only", "7B QLoRA", "OPT", "fp32 master"])
    out = capsys.readouterr().out
    for name in ("LLaMA-7B QLoRA", "OPT-6.7B LoRA", "LLaMA-7B full, fp32 master weights"):
        for way in ("fast", "plain"):
            line = next(line for line in out.splitlines() if line.startswith(f"| {name} | {way} |"))
            if way == "fast":
                assert float(line.split("|")[-2].split()[0]) < 1e-3, line
    assert "no measurement" in out and "left out" not in out


def test_a_section_takes_the_place_of_its_older_self(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "RESULTS.md"
    for title, body in (("One", "first"), ("Two", "second"), ("One", "third")):
        record.section(title, body, str(path))
    text = path.read_text()
    assert text.startswith("# What was measured") and text.count("## One") == 1 and text.count("## Two") == 1
    assert "first" not in text and text.index("third") < text.index("second")
    assert record.section("One", "fourth", "none") is None and "fourth" not in path.read_text()


def test_no_benchmark_is_left_out() -> None:
    run = {command[0] for command, _ in every.commands("run")}
    written = {f"benchmarks/{path.name}" for path in Path(record.__file__).parent.glob("*.py")}
    aside = {"all", "record", "gpu", "gpu_case", "gpu_models"}
    assert written - run == {f"benchmarks/{name}.py" for name in aside}
    assert not {Path(name).stem for name in written} & sys.stdlib_module_names  # a script's folder is searched first


@pytest.mark.parametrize(
    ("module", "words", "found"),
    [
        (prepare_data, ["--rows", "300", "--sample", "10"], "| 300 rows, warm, of processors |"),
        (dedupe, ["--rows", "400", "--sample", "2"], "| all of 400 against those before, by the clock |"),
        (step_profile, ["--rows", "8", "--threads", "1", "--sizes", json.dumps(SIZES)], "| all operators |"),
    ],
)
def test_a_benchmark_writes_its_section(
    module: ModuleType, words: list[str], found: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "RESULTS.md"
    monkeypatch.setattr(sys, "argv", [str(module.__file__), *words, "--record", str(path)])
    module.main()
    text = path.read_text()
    name = Path(str(module.__file__)).name
    assert found in text and f"`python benchmarks/{name} {words[0]} {words[1]}" in text and "--record" not in text


def test_all_of_them_go_on_after_one_that_fails(
    shared: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [(["benchmarks/none.py"], []), (["benchmarks/dedupe.py"], ["--rows", "100", "--sample", "2"])]
    monkeypatch.setattr(every, "commands", lambda run: wanted)
    monkeypatch.setattr(sys, "argv", ["all.py", "--shrink"])
    with pytest.raises(SystemExit, match="benchmarks/none.py"):
        every.main()
    out, err = capfd.readouterr()
    assert "[2/2] benchmarks/dedupe.py" in err and "## ROUGE-L dedupe" in out
