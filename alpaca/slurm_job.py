"""What one task of a SLURM job does: start the training of its run folder, and bring it through preemption and time limits.

SLURM's signals reach every process of the job. The training saves on SIGTERM and ends; SIGUSR2, which comes before the
time limit or with a preemption, is turned into that here. Then the first task queues the job again, in the same run
folder, where it goes on.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from alpaca import checkpoints, multirun

STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM)
"""Exit codes of a training that was asked to stop."""
WORKING_FOLDER = "ALPACA_WORKING_FOLDER"
"""Environment variable: where the job was submitted, so that relative paths in a config hold."""
REQUEUE_WAIT_S = 120
"""How long to wait for SLURM to end this task after the job went back into the queue."""


class Job:
    """The callable that submitit runs, once on each node."""

    def __init__(self, script: str) -> None:
        """`script`: the entrypoint, in the copy of the code."""
        self.script = script
        self.signals: list[int] = []

    def __call__(self, folder: str) -> int:
        """Run the job of `folder` to its end. Raises RuntimeError where it fails, so that SLURM says so too."""
        started, self.signals, step = time.time(), [], saved_step(folder)
        process = subprocess.Popen(
            [sys.executable, self.script, "--job", folder],
            env=_environment(),
            cwd=os.environ.get(WORKING_FOLDER),
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        )

        def note(number: int, frame: Any) -> None:
            self.signals.append(number)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, note)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        code = process.wait()
        if code == 0:
            return 0
        if self.signals and code in STOPPED:
            went_on = saved_step(folder) > step
            if _comes_back(signal.SIGUSR2 in self.signals and went_on):
                _requeue()
            if signal.SIGUSR2 in self.signals and not went_on:
                print("the time limit ended this job before a step: raise hydra.launcher.timeout_min", file=sys.stderr)
        if int(os.environ.get("SLURM_PROCID", 0)) == 0:
            multirun.note_death(Path(folder), code, started)
        raise RuntimeError(f"the run in {folder} ended with exit code {code}")

    def checkpoint(self, folder: str) -> Any:
        """What submitit would submit again: the same, since the run folder holds the state."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, folder)


def saved_step(folder: str) -> int:
    """Step of the newest finished checkpoint of a run folder, or -1."""
    found = Path(folder, "checkpoints").glob(f"checkpoint-*/{checkpoints.MARKER}")
    return max((checkpoints.step_of(marker.parent) for marker in found), default=-1)


def _environment() -> dict[str, str]:
    """The task's environment, and where the nodes of the job meet."""
    environment = dict(os.environ)
    if int(os.environ.get("SLURM_JOB_NUM_NODES", 1)) > 1:
        hosts = _scontrol("show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
        turn = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        port = 20000 + (int(os.environ["SLURM_JOB_ID"]) * 7 + turn) % 12000
        environment[multirun.RENDEZVOUS] = f"{hosts[0]}:{port}"
    return environment


def _scontrol(*words: str) -> str:
    done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=60)
    return done.stdout


def _comes_back(warned_and_further: bool) -> bool:
    """Whether the job should go on later: warned of its end and further than before, or preempted; not cancelled.

    A job whose time limit ends it before its first step would come back for ever, and be paid for each time.
    """
    shown = _scontrol("show", "job", os.environ["SLURM_JOB_ID"])
    fields = dict(word.partition("=")[::2] for word in shown.split() if "=" in word)
    if fields.get("JobState") not in ("RUNNING", None) or fields.get("Requeue") == "0":
        return False
    return warned_and_further or fields.get("PreemptTime", "None") not in ("None", "")


def _requeue() -> None:
    """Put the job back into the queue, once, and wait for SLURM to end this task."""
    if int(os.environ.get("SLURM_PROCID", 0)) == 0:
        print("saved; the job goes back into the queue", file=sys.stderr, flush=True)
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], timeout=60)
    time.sleep(REQUEUE_WAIT_S)
