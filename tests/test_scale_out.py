"""The README's way from a laptop to a cluster: every command as it is written, shrunk by further overrides alone.

What needs SLURM runs in tests/slurm. DDP and sharding are planned and not trained here: test_launch and test_sharding do.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, readme_commands
from tests.test_wandb import SHRUNK, environment
from tests.wandb_server import Server

COMMANDS = [
    words
    for words in readme_commands("From a laptop to a cluster")
    if "slurm" not in str(words) and words[0] != "sbatch"
]
SMALL = [*SHRUNK, "trainer.save_strategy=no", "trainer.max_steps=2", "batch.global_size=4", "batch.per_device=1"]
IN_TURN = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Several commands in one process, which reads torch once."""


def trains(words: list[str]) -> bool:
    """Whether a command is one run of train.py, which a dry run shows as well."""
    return words[:2] == ["python", "train.py"] and "-m" not in words


def shrunk(words: list[str], folder: Path) -> list[str]:
    """A command of the README that runs in seconds on a CPU."""
    binary = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}
    words = [*binary.get(words[0], words[:1]), *words[1:]]
    words = [str(ROOT / w) if w == "train.py" or w.startswith("sweeps/") else w for w in words]
    if words[0] == "wandb":
        return [w.replace("ID", "team/alpaca/sweep1") for w in words]
    if "alpaca.results" in words:
        return words
    if "alpaca.search" in words:
        words += ["--count", "1"]
    return [*words, *SMALL, f"data.cache={folder / 'cache'}"]


@pytest.mark.slow
def test_every_command_on_one_machine_runs(tmp_path: Path) -> None:
    assert {words[0] for words in COMMANDS} == {"python", "torchrun", "wandb"} and len(COMMANDS) == 13
    planned = [[*shrunk(words, tmp_path)[1:], "dry_run=true"] for words in COMMANDS if trains(words)]
    assert len(planned) == 6
    server = Server([])  # a sweep without a suggestion left: what an agent does with them is in test_wandb
    given = environment(server) | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "online"}

    def run(command: list[str]) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    try:
        run([sys.executable, "-c", IN_TURN, json.dumps(planned)])
        for words in COMMANDS:
            if not trains(words):
                run(shrunk(words, tmp_path))
    finally:
        server.close()
    assert len(os.listdir(tmp_path / "DIR" / "model")) > 2
    runs = {p.parent.parent.name for p in (tmp_path / "multirun" / "ranks").glob("*/model/adapter_model.safetensors")}
    assert runs == {f"method.lora.r-{r}" for r in (4, 8, 16)}
    assert (tmp_path / "multirun" / "ranks" / "summary.html").is_file()
    assert len(list((tmp_path / "searches" / "lora").glob("*/result.json"))) == 1
