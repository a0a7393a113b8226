"""What a cluster says of the jobs of a sweep folder, from the job numbers that were noted when they were submitted."""

import json
import shutil
import subprocess
from pathlib import Path

SUBMITTED = "slurm.json"
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "SUSPENDED")
ALIVE = (*WAITING, "RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING")
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def states(folder: Path) -> dict[str, str]:
    """Run folder name -> SLURM's state (RUNNING, PENDING, CANCELLED, ...); UNKNOWN for what it has forgotten."""
    try:
        jobs: dict[str, str] = json.loads((folder / SUBMITTED).read_text())
    except (OSError, ValueError):
        return {}
    known = by_id(list(jobs.values()))
    return {name: known.get(number, "UNKNOWN") for name, number in jobs.items()}


def by_id(numbers: list[str]) -> dict[str, str]:
    """Job number (`12`, or `12_3` in an array) -> state, from sacct where there is accounting, and from squeue."""
    found: dict[str, str] = {}
    words = ",".join(sorted({number.partition("_")[0] for number in numbers}))
    for command in (
        ["sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", words],
        ["squeue", "-h", "-a", "-r", "-t", "all", "-o", "%i|%T", "-j", words],
    ):
        if not numbers or shutil.which(command[0]) is None:
            continue
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        for line in done.stdout.splitlines():
            number, bar, state = line.strip().partition("|")
            if bar and state:
                found[number] = state.split()[0]
    return found
