"""Sweep files: what they hold, what a W&B agent's words become, and the same search on Optuna."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from alpaca import cli
from alpaca.agent import override
from alpaca.config import TrainConfig
from alpaca.errors import UserError
from alpaca.results import RunFolder
from alpaca.search import OVERRIDE, Search, distributions, fixed, read
from tests.commands import ROOT, compose

SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def first_choice(parameter: dict) -> object:
    return parameter["values"][0] if "values" in parameter else parameter.get("value", parameter.get("min"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_sweep_file_is_the_sdks_and_makes_a_config(path: Path) -> None:
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

    sweep = load_sweep_config(str(path))
    assert sweep is not None and _validate_config_and_fill_distribution(sweep)["parameters"]
    args = {name: {"value": first_choice(p)} for name, p in sweep["parameters"].items()}
    words = []
    for word in create_sweep_command(sweep["command"]):
        words += (
            create_sweep_command_args({"args": args})["args_no_hyphens"] if word == "${args_no_hyphens}" else [word]
        )
    overrides = [override(w) for w in words if OVERRIDE.match(w)]
    cli.check_overrides(overrides, TrainConfig)
    config = compose(*overrides)
    assert config.tracker.name == "wandb"
    assert sweep["metric"]["name"] == ("eval_loss" if config.data.validation else "loss")  # what such a run logs
    assert config.method.lora is not None and config.method.lora.r == args["method.lora.r"]["value"]
    assert read(path) == yaml.safe_load(path.read_text()) and distributions(sweep["parameters"])


def test_the_agents_python_values_become_hydras() -> None:
    given = {
        "method.lora.targets=['q_proj', 'v_proj']": "method.lora.targets=[q_proj,v_proj]",
        "data.shuffle_seed=None": "data.shuffle_seed=null",
        "check_saved=False": "check_saved=false",
        "trainer.learning_rate=2e-05": "trainer.learning_rate=2e-05",
        "method.lora.targets=all-linear": "method.lora.targets=all-linear",
        "tracker.tags=['a b']": 'tracker.tags=["a b"]',
        "--verbose": "--verbose",
    }
    assert {word: override(word) for word in given} == given
    config = compose("method=lora", *(override(w) for w in given if not w.startswith("--")))
    assert config.method.lora is not None and config.method.lora.targets == "all-linear"
    assert config.data.shuffle_seed is None and config.tracker.tags == ["a b"] and config.check_saved is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "has no parameters"),
        ("parameters: {a: {value: 1}}", "has no metric.name"),
        ("parameters: {a: {value: 1}}\nmetric: {name: loss}\nmethod: genetic", "method=genetic"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read(tmp_path / "sweep.yaml")


SWEEP = {
    "method": "bayes",
    "metric": {"name": "loss", "goal": "minimize"},
    "parameters": {
        "method.lora.r": {"values": [2, 4, 8]},
        "trainer.learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
        "method.lora.targets": {"value": ["q_proj"]},
        "data.shuffle_seed": {"value": None},
    },
    "command": ["${env}", "${interpreter}", "-m", "alpaca.agent", "method=lora", "tracker=wandb", "${args_no_hyphens}"],
}


def test_a_search_goes_on_with_what_a_killed_worker_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna.trial import TrialState

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert fixed(SWEEP, ["data.limit=5"]) == [
        "method=lora", "method.lora.targets=[q_proj]", "data.shuffle_seed=null", "data.limit=5",
    ]  # fmt: skip
    script = ROOT / "tests" / "sweep_job.py"
    first = Search(SWEEP, tmp_path, ["data.limit=5"], script)
    lost = first.study.ask(first.space)  # as a killed worker leaves it: running, with a run folder
    lost.set_user_attr("run", "somewhere")
    (tmp_path / "mended").touch()
    second = Search(SWEEP, tmp_path, ["data.limit=5"], script)
    second.run(3)
    trials = second.study.get_trials()
    assert sum(t.state == TrialState.COMPLETE for t in trials) == 3
    assert trials[lost.number].state == TrialState.FAIL
    assert lost.params in [t.params for t in trials if t.state == TrialState.COMPLETE]  # run again
    best = second.study.best_trial
    folder = tmp_path / best.user_attrs["run"]
    assert second.values(folder)[-1] == best.value
    assert sorted(best.intermediate_values) == list(range(1, 21))
    third = Search(SWEEP, tmp_path, [], script)
    third.run(3)  # nothing left to do
    assert len(third.study.get_trials()) == len(trials)


def test_a_grid_runs_each_combination_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    sweep = SWEEP | {"method": "grid", "parameters": {"method.lora.r": {"values": [2, 4]}}}
    search = Search(sweep, tmp_path, [], ROOT / "tests" / "sweep_job.py")
    search.run(10)
    assert sorted(t.value is not None for t in search.study.get_trials()).count(True) == 2
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"method.lora.r-2", "method.lora.r-4"}


WORKER = """
import sys, yaml
from pathlib import Path
from alpaca.search import Search

Search(yaml.safe_load(sys.argv[1]), Path(sys.argv[2]), [], Path(sys.argv[3])).run(int(sys.argv[4]))
"""


def worker(folder: Path, count: int) -> subprocess.Popen[str]:
    """A search in a process of its own."""
    words = [sys.executable, "-c", WORKER, yaml.safe_dump(SWEEP), str(folder), str(ROOT / "tests" / "sweep_job.py")]
    return subprocess.Popen([*words, str(count)], env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)  # fmt: skip


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("given", [{"min_iter": 4, "eta": 2}, {"max_iter": 16, "eta": 2, "s": 2}])
def test_hyperband_stops_a_run_that_is_worse(given: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna.trial import TrialState

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    hyperband = SWEEP | {"early_terminate": {"type": "hyperband"} | given}
    search = Search(hyperband, tmp_path, [], ROOT / "tests" / "sweep_job.py")
    for rate in (1e-5, 1e-2):
        search.study.enqueue_trial({"method.lora.r": "2", "trainer.learning_rate": rate})
    search.run(1)
    (tmp_path / "slow").touch()
    search.run(2)
    good, bad = search.study.get_trials()
    assert (good.state, bad.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert good.value is not None and not (tmp_path / bad.user_attrs["run"] / "model").exists()


def test_a_search_killed_outright_goes_on_in_the_same_folders(tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    (tmp_path / "mended").touch()  # whatever rank is drawn first, its run is still there when its worker is killed
    first = worker(tmp_path, 2)
    wait_for(lambda: (tmp_path / "started").exists() and bool((tmp_path / "started").read_text()))
    run = tmp_path / (tmp_path / "started").read_text().strip()
    assert RunFolder(run).is_locked()
    first.kill()
    first.wait()
    wait_for(lambda: not RunFolder(run).is_locked())  # no orphan goes on unseen
    (tmp_path / "slow").unlink()
    second = worker(tmp_path, 2)
    said = second.communicate(timeout=120)[1]
    assert second.returncode == 0 and f"{run.name}: its worker died; it is run again" in said
    assert (tmp_path / "started").read_text().split().count(run.name) == 2
    study = Search(SWEEP, tmp_path, []).study
    assert [t.state.name for t in study.get_trials()] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_two_workers_share_one_study(tmp_path: Path) -> None:
    (tmp_path / "mended").touch()
    both = [worker(tmp_path, 5) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all("=== trial" in text for text in said)
    study = Search(SWEEP, tmp_path, []).study
    assert [t.state.name for t in study.get_trials()] == ["COMPLETE"] * 5  # no run too many
    assert len({t.user_attrs["run"] for t in study.get_trials()}) == 5
