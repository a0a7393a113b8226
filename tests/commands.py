"""The commands as a user gives them: composed, run, and read out of the README."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import hydra
from omegaconf import OmegaConf

from alpaca import cli
from alpaca.config import TrainConfig, load
from tests import forks

ROOT = Path(__file__).resolve().parent.parent


def compose(*overrides: str) -> TrainConfig:
    """The validated config of a command line."""
    cli.register("train", TrainConfig)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(cli.CONF)):
        composed = hydra.compose("train", list(overrides))
    return load(OmegaConf.to_container(composed, resolve=True))


def run_python(*words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an entrypoint as a user would, and check its exit code; with another environment in a fresh Python."""
    given = os.environ | environment
    if set(environment) - forks.SETTINGS or words[0] == "-c":
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=given, timeout=500)
    else:
        done = forks.run(list(words), ROOT, given)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done


def readme_commands(heading: str) -> list[list[str]]:
    """The commands of a section of README.md, split as a shell does, without their comments."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert section, f"README.md has no section {heading!r}"
    return [shlex.split(line, comments=True) for line in section.splitlines() if line.startswith("    ")]
