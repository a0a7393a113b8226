"""The benchmarks run: every GPU case shrunk to this machine, and the results file they write."""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from alpaca import forward_check
from alpaca.forward import padded
from benchmarks import all as every
from benchmarks import dedupe, gpu, host_time, prepare_data, record, step_profile
from benchmarks.gpu_case import COLUMNS, Bench
from benchmarks.gpu_models import Case
from tests import forks
from tests.commands import ROOT

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 2}


def gpu_case(name: str) -> Case:
    return next(case for case in gpu.CASES if case.name == name)


@pytest.mark.parametrize("name", ["LLaMA-7B QLoRA", "LLaMA-7B full, fp32 master weights"])
def test_a_gpu_case_runs_shrunk(name: str) -> None:
    found: list[tuple[str, Any]] = []
    arguments = argparse.Namespace(shrink=True, ways=["plain", "fast"], profile=False)
    gpu.run(gpu_case(name), arguments, 60.0, lambda *one: found.append(one))
    plain, fast = (dict(zip(COLUMNS, one, strict=True)) for kind, one in found if kind == "line")
    assert [kind for kind, _ in found] == ["rate", "line", "line"]
    assert (plain["batches, loss"], fast["batches, loss"]) == ("padded, transformers' own", "sequences, chunked")
    assert float(fast["hidden states away (rows one at a time)"].split()[0]) < 1e-3
    loss, expected = fast["loss (plain)"].strip(")").split(" (")
    assert plain["loss (plain)"] == expected and float(loss) == pytest.approx(float(expected), abs=2e-3)


def test_every_fast_way_is_checked_and_the_plain_one_takes_the_models_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(gpu_case("LLaMA-7B full, fp32 master weights"), True, torch.device("cpu"), 1.0)
    monkeypatch.setattr(bench, "autocast", contextlib.nullcontext)
    given: list[dict[str, Any]] = []
    bench.model.register_forward_pre_hook(lambda _, args, options: given.append(options), with_kwargs=True)
    plain = bench.loss("plain", padded(bench.checks[0]))
    assert given[0]["labels"] is not None
    assert bench.loss("fast", bench.checks[0]).item() == pytest.approx(plain.item(), rel=1e-6)

    def out_of_memory(*_: Any, tokens: int) -> None:
        assert tokens == max(b["input_ids"].numel() for b in bench.batches(2))
        raise torch.cuda.OutOfMemoryError()

    with monkeypatch.context() as broken:
        broken.setattr(forward_check, "choose", out_of_memory)
        for way in ("fast", "fast, compiled"):
            with pytest.raises(torch.cuda.OutOfMemoryError):
                bench.prepare(way)
    assert bench.prepare("fast, compiled") == "" and bench.took("fast, compiled") == "sequences, chunked"


def test_gpu_cases_share_the_minutes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, float] = {}

    def spend(case: Case, words: list[str], seconds: float, tell: Any) -> None:
        given[case.name] = seconds
        clock.append(seconds)

    clock = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: sum(clock))
    monkeypatch.setattr(gpu, "apart", spend)
    gpu.main(["--shrink", "--minutes", "5"])
    assert sum(given.values()) == pytest.approx(300) and len(given) == len(gpu.CASES)
    assert given["LLaMA-7B LoRA"] == pytest.approx(given["LLaMA-7B QLoRA"])
    assert 30 < given["LLaMA-7B LoRA"] < given["LLaMA-65B QLoRA"] < 90
    given.clear()
    gpu.main(["--shrink", "--minutes", "0", "--only", "OPT"])
    assert not given and "OPT-6.7B LoRA was left out: 0 s of --minutes were left for it." in capsys.readouterr().out


def test_a_gpu_case_ends_with_its_seconds() -> None:
    found: list[tuple[str, Any]] = []
    gpu.apart(gpu_case("OPT-6.7B LoRA"), ["--shrink"], 0.5, lambda *one: found.append(one))
    assert found == [("fault", "OPT-6.7B LoRA was broken off: its 0 s of --minutes were over.")]


def test_a_run_that_is_cut_off_leaves_its_table(tmp_path: Path) -> None:
    """The lines of a case that is over and of one that is not yet, what is missing, and no process."""
    path = tmp_path / "found.md"
    words = [gpu.__file__, "--shrink", "--only", "7B LoRA", "OPT", "--record", str(path)]
    run = forks.Forked(words, ROOT)
    try:
        end = time.monotonic() + 240
        while run.poll() is None and time.monotonic() < end and "| OPT" not in read_or_nothing(path):
            time.sleep(0.05)
    finally:
        run.terminate()
    out, err = run.communicate(timeout=60)
    text = path.read_text()
    assert "| LLaMA-7B LoRA | fast | sequences, chunked |" in text and text.endswith(out.removesuffix("\n")), err
    assert "| OPT-6.7B LoRA | plain |" in text and "Cut off before the end of: OPT-6.7B LoRA." in text, err
    assert run.returncode
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(path) in read_or_nothing(p)]
    assert not left


def read_or_nothing(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # not there, or not yet
        return ""


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
        (host_time, ["--count", "1"], "| qlora | on | 224 |"),
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
