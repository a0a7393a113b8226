"""Many jobs of one command: how they are named, each in a process of its own, and what is left of them. Knows no torch.

A job's folder holds `job.json` (its overrides and its composed config) from the moment it is due, so that a job that dies
without a word is still known. A job that died, failed or was never reached is run by the same command with
`sweep.resume=DIR`; a completed one is not run again.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.results import RunFolder, write_atomic

JOB = "job.json"
LONGEST_NAME = 150
RESUME = "sweep.resume="
RENDEZVOUS = "ALPACA_RENDEZVOUS"
"""Environment variable: HOST:PORT where the nodes of a cluster job meet, which is known only there."""
FLAGS = ("-m", "--multirun")


def prepare(arguments: list[str], stamp: str, keys: list[str]) -> tuple[list[str], Path | None]:
    """The arguments as Hydra takes them, and the sweep folder, or None where there is one run.

    `keys`: the override keys of the command that do not vary, which are left out of the jobs' names.
    """
    resumed = [a.removeprefix(RESUME) for a in arguments if a.startswith(RESUME)]
    arguments = [a for a in arguments if not a.startswith(RESUME)]
    launcher = any(a.startswith(("hydra/launcher=", "hydra.launcher.")) for a in arguments)
    if not resumed and not launcher and not any(a in FLAGS for a in arguments):
        return arguments, None
    if not any(a in FLAGS for a in arguments):
        arguments = ["-m", *arguments]
    given = [_unquoted(a.partition("=")[2]) for a in arguments if a.startswith("hydra.sweep.dir=")]
    if resumed and not Path(resumed[-1]).is_dir():
        raise UserError(
            f"{RESUME}{resumed[-1]} is not a folder: it takes the folder of a sweep that was started before"
        )
    folder = Path((resumed or given or [f"multirun/{stamp}"])[-1]).absolute()
    arguments = [a for a in arguments if not a.startswith("hydra.sweep.dir=")]
    text = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    fixed = ",".join(f'"{key}"' for key in keys)
    naming = "hydra.job.config.override_dirname"
    words = [f'hydra.sweep.dir="{text}"', f"{naming}.exclude_keys=[{fixed}]"]
    return [*arguments, *words, f"{naming}.kv_sep=-", f"{naming}.item_sep=--"], folder


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def job_name(number: Any, overrides: str) -> str:
    """The folder of a job: its overrides in characters that need no quotes anywhere, or its number where nothing varies."""
    name = re.sub(r"[^\w.+-]+", "_", str(overrides or "")).strip("_-")
    if len(name) > LONGEST_NAME:
        name = name[: LONGEST_NAME - 9] + "-" + hashlib.sha256(str(overrides).encode()).hexdigest()[:8]
    return name if name.strip(".") else str(number)


def write_job(folder: Path, overrides: list[str], composed: Any) -> None:
    """job.json: what is to be run in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / JOB, json.dumps({"overrides": overrides, "config": composed}, indent=1) + "\n")


def read_job(folder: Path) -> dict[str, Any]:
    """job.json, or an empty dict where there is none."""
    try:
        job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return job if isinstance(job, dict) else {}


def is_done(folder: Path, composed: Any) -> bool:
    """Whether the folder holds this very job, completed."""
    return RunFolder(folder).read_result().get("status") == "completed" and read_job(folder).get("config") == composed


def run_job(script: str, folder: Path, overrides: list[str], composed: Any) -> int:
    """Run one job of `script` in a process of its own; its exit code. A job that is completed already is left alone."""
    if is_done(folder, composed):
        console.say(f"{folder.name}: completed already")
        return 0
    write_job(folder, overrides, composed)
    console.say(f"\n=== {folder.name}")
    return run_folder(script, folder)


def run_folder(script: str, folder: Path) -> int:
    """Run the job that a folder describes; its exit code. Ctrl-C and SIGTERM reach it, and it saves first."""
    started = time.time()
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_RUN_ID"}  # each job is a run of its own
    process = subprocess.Popen([sys.executable, script, "--job", str(folder)], env=environment)

    def forward(number: int, frame: Any) -> None:
        process.send_signal(number)
        stopped.append(number)

    stopped: list[int] = []
    before = _handle(signal.SIGTERM, forward)
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:  # the terminal has sent it to the job as well
            stopped.append(signal.SIGINT)
    _handle(signal.SIGTERM, before)
    note_death(folder, code, started)
    if stopped:
        raise KeyboardInterrupt
    return code


def _handle(number: int, handler: Any) -> Any:
    try:
        return signal.signal(number, handler)
    except ValueError:  # not in the main thread: whoever started this thread handles signals
        return None


def run_here(work: Callable[[Any, Path], None], folder: Path) -> None:
    """Run `work(config, folder)` on the config that a folder holds; result.json also tells of an error before the run began."""
    started = time.time()
    try:
        composed = read_job(folder)["config"]
        if RENDEZVOUS in os.environ and "rendezvous" in composed.get("launch", {}):
            composed["launch"]["rendezvous"] = os.environ[RENDEZVOUS]
        work(composed, folder)
    except Exception as error:
        _note(folder, started, f"{type(error).__name__}: {error}")
        raise


def note_death(folder: Path, code: int, started: float) -> None:
    """Write result.json for a process that ended without writing it itself."""
    if code != 0:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        hint = ", as the kernel does when memory runs out" if code == -signal.SIGKILL else ""
        _note(folder, started, f"the process ended without a word ({how}{hint})")


def _note(folder: Path, started: float, error: str) -> None:
    place = folder / "result.json"
    if not place.is_file() or place.stat().st_mtime < started:
        note(folder, error)


def note(folder: Path, error: str) -> None:
    """Write result.json for a job that failed, at the step that it had come to."""
    run = RunFolder(folder)
    lines = run.read_metrics()
    run.write_result("failed", step=lines[-1].get("step", 0) if lines else 0, error=error)
