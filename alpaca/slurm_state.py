"""What a cluster says of the jobs of a sweep folder, from the job numbers that were noted when they were submitted."""

import json
import shutil
import subprocess
from pathlib import Path

SUBMITTED = "slurm.json"


def states(folder: Path) -> dict[str, str]:
    """Run folder name -> SLURM's state (RUNNING, PENDING, CANCELLED, ...) as far as the cluster still knows it."""
    try:
        jobs: dict[str, str] = json.loads((folder / SUBMITTED).read_text())
    except (OSError, ValueError):
        return {}
    known = by_id(list(jobs.values()))
    return {name: known.get(number, "UNKNOWN") for name, number in jobs.items()}


def by_id(numbers: list[str]) -> dict[str, str]:
    """Job number (`12`, or `12_3` in an array) -> state, from squeue, and from sacct where there is accounting."""
    if not numbers:
        return {}
    words = ",".join(numbers)
    found: dict[str, str] = {}
    for command in (
        ["sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", words],
        ["squeue", "-h", "-a", "-r", "-t", "all", "-o", "%i|%T", "-j", words],
    ):
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        for line in done.stdout.splitlines():
            number, bar, state = line.strip().partition("|")
            if bar:
                found[number] = state.split()[0]
    return found
