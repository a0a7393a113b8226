"""The jobs of one command, each in a process of its own, and what is left of them. Knows no torch.

A job's folder holds `job.json` (its overrides and its composed config) from the moment it is due, so that a job that dies
without a word is still known. A job that died, failed or was never reached is run by the same command with
`sweep.resume=DIR`; a completed one is not run again.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.results import RunFolder, write_atomic

JOB = "job.json"
RENDEZVOUS = "ALPACA_RENDEZVOUS"
"""Environment variable: HOST:PORT where the nodes of a cluster job meet, which is known only there."""


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
