"""The README's way from a laptop to a cluster: every command as it is written, shrunk by further overrides alone.

What needs SLURM runs in tests/slurm. DDP and sharding are planned and not trained here: test_launch and test_sharding do.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests import forks
from tests.commands import ROOT, readme_commands
from tests.test_wandb import SHRUNK, environment
from tests.wandb_server import Server

COMMANDS = [
    words
    for words in readme_commands("From a laptop to a cluster")
    if "slurm" not in str(words) and words[0] != "sbatch"
]
SMALL = [*SHRUNK, "trainer.save_strategy=no", "trainer.max_steps=2", "batch.global_size=4", "batch.per_device=1"]


def trains(words: list[str]) -> bool:
    """Whether a command is one run of train.py, which a dry run shows as well."""
    return words[:2] == ["python", "train.py"] and "-m" not in words


def shrunk(words: list[str], folder: Path) -> list[str]:
    """A command of the README that runs in seconds on a CPU: the words for Python, or a program of W&B and its words."""
    binary = {"python": [], "torchrun": ["-m", "torch.distributed.run"]}
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
    assert sum(map(trains, COMMANDS)) == 6
    server = Server([])  # a sweep without a suggestion left: what an agent does with them is in test_wandb
    given = environment(server) | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "online"}

    def run(command: list[str]) -> None:
        if command[0] == "wandb":
            done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=400)
        else:
            done = forks.run(command, tmp_path, given)
        assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"

    try:
        for words in COMMANDS:
            run([*shrunk(words, tmp_path), *(["dry_run=true"] if trains(words) else [])])
    finally:
        server.close()
    assert len(os.listdir(tmp_path / "DIR" / "model")) > 2
    runs = {p.parent.parent.name for p in (tmp_path / "multirun" / "ranks").glob("*/model/adapter_model.safetensors")}
    assert runs == {f"method.lora.r-{r}" for r in (4, 8, 16)}
    assert (tmp_path / "multirun" / "ranks" / "summary.html").is_file()
    assert len(list((tmp_path / "searches" / "lora").glob("*/result.json"))) == 1
