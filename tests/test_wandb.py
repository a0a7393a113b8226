"""The real `wandb sweep` and `wandb agent` against a server on this machine, from a folder that is not the project's."""

import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from alpaca import tracker
from alpaca.errors import Interrupted
from alpaca.results import RunFolder
from tests.commands import ROOT, compose, run_python
from tests.wandb_server import Server

SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
SHRUNK = [
    "model=tiny_llama", "model.vocab_size=300", "model.architecture.hidden_size=32", "data=seed_tasks", "data.limit=24",
    "model.architecture.num_attention_heads=2", "model.architecture.num_key_value_heads=2", "data.validation=4",
    "model.architecture.num_hidden_layers=1", "model.architecture.intermediate_size=64", "trainer.max_steps=4",
    "trainer.eval_steps=2", "max_length=160", "check_saved=false", "rehearse_save=false",
]  # fmt: skip


def environment(server: Server) -> dict[str, str]:
    """What a user has: an active environment, a key, and no path to the project."""
    own = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "WANDB_MODE")}
    return own | {
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "WANDB_BASE_URL": server.address,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_AGENT_MAX_INITIAL_FAILURES": "1",  # one run taken for failed ends the agent
        "OMP_NUM_THREADS": "1",
    }


def wandb(server: Server, folder: Path, *words: str) -> str:
    """Run a command of the SDK; what it said."""
    done = subprocess.run(["wandb", *words], cwd=folder, env=environment(server), capture_output=True, text=True, timeout=400)  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_a_sweep_file_keeps_to_wandbs_schema(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    try:
        schema = next(p for p in files("sweeps") or [] if p.name == "schema.json")
    except PackageNotFoundError:
        pytest.skip("no package sweeps, which holds W&B's schema: pip install --no-deps sweeps")
    validator = jsonschema.Draft7Validator(json.loads(Path(str(schema.locate())).read_text()))
    sweep = yaml.safe_load(path.read_text())
    assert [error.message for error in validator.iter_errors(sweep)] == []
    assert list(validator.iter_errors(sweep | {"method": "genetic"}))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_wandb_sweep_takes_every_sweep_file(path: Path, tmp_path: Path) -> None:
    server = Server()
    try:
        said = wandb(server, tmp_path, "sweep", str(path))
    finally:
        server.close()
    assert "wandb agent team/alpaca/sweep1" in said
    assert server.sweep == yaml.safe_load(path.read_text())


@pytest.mark.slow
def test_the_agent_brings_suggestions_to_training_and_their_metric_back(tmp_path: Path) -> None:
    sweep = yaml.safe_load((ROOT / "sweeps" / "lora.yaml").read_text())
    sweep["command"][-1:] = [*SHRUNK, f"data.cache={tmp_path / 'cache'}", sweep["command"][-1]]
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(sweep))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    suggestions = [
        {"method.lora.r": 4, "method.lora.targets": "all-linear", "data.shuffle_seed": 7, "trainer.max_steps": 100000,
         "trainer.eval_steps": 1},
        {"method.lora.r": 8, "method.lora.targets": ["q_proj", "v_proj"], "data.shuffle_seed": None,
         "method.lora.dropout": 0.0, "trainer.learning_rate": 2e-05},
    ]  # fmt: skip
    server = Server(suggestions, stop={"run0": 3})  # as Hyperband stops a run
    try:
        wandb(server, elsewhere, "sweep", str(tmp_path / "lora.yaml"))
        said = wandb(server, elsewhere, "agent", "team/alpaca/sweep1")
    finally:
        server.close()
    assert set(server.runs) == {"run0", "run1"}, said[-6000:]
    metric = sweep["metric"]["name"]
    for name, run in server.runs.items():
        values = [line[metric] for line in run.history if metric in line]
        assert values and run.summary[metric] == values[-1], f"{name} {run.history}"
    assert {name: run.exit_code for name, run in server.runs.items()} == {"run0": 1, "run1": 0}
    configs = [server.runs[f"run{i}"].config for i in range(2)]
    assert [c["method"]["lora"]["r"] for c in configs] == [4, 8]
    assert [c["method"]["lora"]["targets"] for c in configs] == ["all-linear", ["q_proj", "v_proj"]]
    assert [c["data"]["shuffle_seed"] for c in configs] == [7, None]
    assert configs[1]["method"]["lora"]["dropout"] == 0.0 and configs[1]["trainer"]["learning_rate"] == 2e-05
    assert configs[1]["model"]["name"] == "tiny_llama" and configs[1]["trainer"]["num_train_epochs"] == 1
    folders = [RunFolder(p.parent) for p in sorted(elsewhere.glob("outputs/*/*/result.json"))]
    assert [f.read_result()["status"] for f in folders] == ["interrupted", "completed"]
    losses = [m[metric] for m in folders[1].read_metrics() if metric in m]
    assert losses == [line[metric] for line in server.runs["run1"].history if metric in line]


LOST = """
import os, signal, sys
from pathlib import Path
from alpaca import tracker
from alpaca.results import RunFolder
from tests.commands import compose

started = tracker.start(compose("tracker=wandb"), RunFolder(sys.argv[1]))
started.log({"loss": 2.0}, step=1)
children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
cores = [p for p in children if b"wandb-core" in Path(f"/proc/{p}/cmdline").read_bytes()]
os.kill(int(cores[0]), signal.SIGKILL)
for step in range(2, 200):
    started.log({"loss": 1.0}, step=step)
started.finish("completed")
"""


def test_a_lost_wandb_does_not_end_the_training(tmp_path: Path) -> None:
    done = run_python("-c", LOST, str(tmp_path), WANDB_MODE="offline", WANDB_SILENT="true", PYTHONPATH=str(ROOT))
    assert done.stderr.count("W&B takes nothing more") == 1


def test_a_signal_while_wandb_starts_or_takes_a_point_is_no_fault_of_wandb(tmp_path: Path, monkeypatch) -> None:
    """Else a job that is preempted just then would fail, and not come back."""

    def stop(*words: object, **given: object) -> None:
        raise Interrupted("stopped by SIGTERM", 143)

    monkeypatch.setattr(tracker.WandbTracker, "_init", stop)
    with pytest.raises(Interrupted):
        tracker.start(compose("tracker=wandb"), RunFolder(tmp_path))
    monkeypatch.setattr(tracker.WandbTracker, "_init", lambda *words: SimpleNamespace(log=stop))
    started = tracker.start(compose("tracker=wandb"), RunFolder(tmp_path))
    with pytest.raises(Interrupted):
        started.log({"loss": 1.0}, step=1)
