"""Sweeps: a folder a job, failures that hide nothing, going on, the summary, and the real thing once."""

import csv
import os
import subprocess
from pathlib import Path

import pytest

from alpaca import summary, summary_plots, sweep_words
from tests import forks
from tests.commands import ROOT, run_python

SWEEP = ["-m", "method=lora", "method.lora.r=2,4,7,8,9", "trainer.learning_rate=1e-3,1e-2", "data.limit=5"]


def sweep(*words: str, script: str = "tests/sweep_job.py") -> subprocess.CompletedProcess[str]:
    return forks.run([script, *words], ROOT, os.environ | {"PYTHONPATH": str(ROOT)})


def read_csv(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "summary.csv").open() as file:
        return {row["run"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("sweep") / "one"
    return folder, sweep(*SWEEP, f"hydra.sweep.dir={folder}")


def test_failed_and_dying_jobs_neither_stop_nor_hide_the_others(swept) -> None:
    folder, done = swept
    assert done.returncode == 1, done.stderr[-3000:]
    rows = read_csv(folder)
    name = "method.lora.r-{}--trainer.learning_rate-{}"
    assert set(rows) == {name.format(r, lr) for r in (2, 4, 7, 8, 9) for lr in ("0.001", "0.01")}
    statuses = {key: row["status"] for key, row in rows.items()}
    for rate in ("0.001", "0.01"):
        assert [statuses[name.format(r, rate)] for r in (2, 4)] == ["completed"] * 2
        assert [statuses[name.format(r, rate)] for r in (7, 8, 9)] == ["failed"] * 3
    assert rows[name.format(8, "0.01")]["error"] == "the process ended without a word (exit code 5)"
    assert (
        rows[name.format(9, "0.01")]["error"]
        == "the process ended without a word (killed by SIGKILL, as the kernel does when memory runs out)"
    )
    assert "6 of 10 runs did not complete:" in done.stderr
    assert f"  {name.format(7, '0.01')}: failed (method.lora.r=7 is not allowed here)" in done.stderr


def test_the_table_is_ranked_and_the_pictures_are_there(swept) -> None:
    folder, done = swept
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["loss", "method.lora.r", "trainer.learning_rate", "status", "steps", "seconds"]
    ranks = [line.split()[2:5] for line in lines[1:5]]
    assert ranks == [[r, lr, "completed"] for lr, r in (("0.001", "2"), ("0.01", "2"), ("0.001", "4"), ("0.01", "4"))]
    for name in ("summary.png", "parameters.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"
    page = (folder / "summary.html").read_text()
    assert page.index("What did not complete") < page.index("<td>method.lora.r=7 is not allowed here</td>")
    assert "10 runs: 4 completed, 6 failed" in page and page.count("data:image/png") == 2


def test_going_on_runs_only_what_is_missing(swept) -> None:
    folder, _ = swept
    (folder / "started").unlink(missing_ok=True)
    (folder / "mended").touch()
    done = sweep(*SWEEP, f"sweep.resume={folder}")
    started = (folder / "started").read_text().split()
    assert len(started) == 6 and not any("r-2" in name or "r-4" in name for name in started)
    assert "2 of 10 runs did not complete" in done.stderr and done.returncode == 1
    again = run_python("-m", "alpaca.results", str(folder))
    assert again.stdout == done.stdout
    refused = sweep(*SWEEP, "sweep.resume=/nowhere")
    assert refused.returncode == 2 and "sweep.resume=/nowhere is not a folder" in refused.stderr


def test_parallel_jobs_with_joblib(tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    words = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "method=lora", "method.lora.r=2,7,4"]
    done = sweep(*words, f"hydra.sweep.dir='{folder}'")
    assert done.returncode == 1, done.stderr[-3000:]
    assert {k: r["status"] for k, r in read_csv(folder).items()} == {
        "method.lora.r-2": "completed",
        "method.lora.r-7": "failed",
        "method.lora.r-4": "completed",
    }


def test_names_need_no_quotes_and_stay_short() -> None:
    assert sweep_words.job_name(3, "") == "3"
    assert sweep_words.job_name(3, "method.lora.targets-[q_proj,v_proj]") == "method.lora.targets-_q_proj_v_proj"
    long = [sweep_words.job_name(0, f"model.path-/data/{'x' * 300}{i}") for i in (1, 2)]
    assert len(set(long)) == 2 and all(len(name) <= sweep_words.LONGEST_NAME for name in long)
    assert sweep_words.job_name(0, "model.path-../..") not in ("..", ".")


@pytest.mark.parametrize("keys", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_every_number_of_parameters_has_a_picture(keys: list[str], tmp_path: Path) -> None:
    runs = [
        summary.Run(str(i), tmp_path, "completed", {"a": str(i), "b": str(i % 2), "c": "x"}, 1.0 + i, "", 2, 1.0)
        for i in range(4)
    ]
    runs.append(summary.Run("4", tmp_path, "failed", {"a": "4", "b": "0", "c": "y"}, None, "", 0, 0.0))
    drawn = {name: figure for name, _, figure in summary_plots.figures(runs, keys)}
    assert list(drawn) == ["parameters"]
    if len(keys) == 2:  # a cell for each run, the failed one's too
        assert [t.get_text() for t in drawn["parameters"].axes[0].texts][::-1][:4] == [f"{1 + i:.4f}" for i in range(4)]
        assert "failed" in [t.get_text() for t in drawn["parameters"].axes[0].texts]


@pytest.mark.slow
def test_a_real_sweep(tmp_path: Path) -> None:
    settings = [
        "model=tiny_llama", "model.vocab_size=300", "model.architecture.hidden_size=32",
        "model.architecture.num_attention_heads=2", "model.architecture.num_key_value_heads=2",
        "model.architecture.num_hidden_layers=1", "model.architecture.intermediate_size=64", "data.limit=24",
        f"data.cache={tmp_path / 'cache'}", "batch.global_size=8", "batch.per_device=4", "trainer.max_steps=4",
        "trainer.save_strategy=no", "check_saved=false", "rehearse_save=false",
    ]  # fmt: skip
    folder = tmp_path / "sweep"
    words = [
        "-m",
        *settings,
        "method=lora",
        "method.lora.targets=[q_proj,v_proj],[nothing]",
        f"hydra.sweep.dir={folder}",
    ]
    done = sweep(*words, script="train.py")
    assert done.returncode == 1, done.stderr[-3000:]
    rows = read_csv(folder)
    assert rows["method.lora.targets-_q_proj_v_proj"]["status"] == "completed"
    assert "names 'nothing', which this model has not" in rows["method.lora.targets-_nothing"]["error"]
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 1  # prepared once
