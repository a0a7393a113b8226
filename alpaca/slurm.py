"""Jobs of a sweep handed to SLURM through submitit, and waited for. Knows no torch: a login node has none.

What is submitted is what runs: each job's config was composed and stands in its run folder, and the code is copied
beside the runs, so that the working copy may change while jobs wait.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca import config as configs
from alpaca import console, multirun, slurm_state
from alpaca.errors import UserError, first_line
from alpaca.results import write_atomic
from alpaca.slurm_job import WORKING_FOLDER, Job

ROOT = Path(__file__).resolve().parent.parent
POLL = 5.0
"""Seconds between looks at the queue."""
OWN = ("wait", "python", "gpus_per_node", "submitit_folder")
PLAIN = ("timeout_min", "cpus_per_task", "mem_gb", "name")
"""Settings that submitit takes without its prefix for SLURM."""


@dataclass
class Composed:
    """A job as Hydra composed it: folder name, overrides, config as plain data."""

    name: str
    overrides: list[str]
    config: dict[str, Any]


def submit(jobs: list[Composed], sweep: str, settings: dict[str, Any]) -> None:
    """Submit what is not completed or in the queue already; then wait, or print the job ids and leave."""
    if shutil.which("sbatch") is None:
        raise UserError("hydra/launcher=slurm needs sbatch, which is not here: run this where SLURM's commands are")
    folder = Path(sweep)
    folder.mkdir(parents=True, exist_ok=True)
    wait, due = bool(settings.get("wait", True)), _due(jobs, folder)
    if due:
        code = copy_code(folder)
        for resources, group in _by_resources(due, settings).items():
            _submit_group(group, folder, code, dict(zip(("nodes", "gpus"), resources, strict=True)), settings)
    numbers = noted(folder)
    if not wait:
        for job in jobs:
            if job.name in numbers:
                print(f"{numbers[job.name]}  {folder / job.name}", flush=True)
        console.say(f"submitted; their state:  python -m alpaca.results {folder}")
        raise SystemExit(0)
    watch(folder, [job.name for job in due if job.name in numbers])


def noted(folder: Path) -> dict[str, str]:
    """Run folder name -> job number, of all that were submitted."""
    try:
        return json.loads((folder / slurm_state.SUBMITTED).read_text())
    except (OSError, ValueError):
        return {}


def _due(jobs: list[Composed], folder: Path) -> list[Composed]:
    """Jobs to submit: checked, not completed, not in the queue. A faulty one is noted as failed and said."""
    states, due = slurm_state.states(folder), []
    for job in jobs:
        place = folder / job.name
        launch = job.config.get("launch") or {}
        if (launch.get("nodes") or 1) > 1 and "rendezvous" in launch and not launch["rendezvous"]:
            launch["rendezvous"] = "slurm:0"  # known in the job
        if multirun.is_done(place, job.config):
            console.say(f"{job.name}: completed already")
        elif states.get(job.name) in slurm_state.ALIVE:
            console.say(f"{job.name}: in the queue already")
        else:
            multirun.write_job(place, job.overrides, job.config)
            try:
                configs.load(json.loads(json.dumps(job.config)))
                due.append(job)
            except UserError as error:
                multirun.note(place, f"UserError: {error}")
                console.say(f"{job.name}: not submitted: {error}")
    return due


def copy_code(folder: Path) -> Path:
    """A copy of the program beside the runs: train.py, alpaca/, conf/, hydra_plugins/."""
    target = folder / time.strftime(".code-%Y%m%d-%H%M%S")
    target.mkdir(exist_ok=True)
    script = Path(sys.argv[0]).absolute()
    shutil.copy2(script, target / script.name)
    for name in ("alpaca", "conf", "hydra_plugins"):
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / name, target / name, ignore=ignored, dirs_exist_ok=True)
    return target


def _by_resources(jobs: list[Composed], settings: dict[str, Any]) -> dict[tuple[int, int], list[Composed]]:
    """(nodes, GPUs on each) -> the jobs that ask for these."""
    groups: dict[tuple[int, int], list[Composed]] = {}
    for job in jobs:
        launch = job.config.get("launch") or {}
        processes = launch.get("processes", "auto")
        given = settings.get("gpus_per_node", "auto")
        gpus = (1 if processes == "auto" else int(processes)) if given in ("auto", None) else int(given)
        groups.setdefault((int(launch.get("nodes", 1)), gpus), []).append(job)
    return groups


def _submit_group(
    jobs: list[Composed], folder: Path, code: Path, resources: dict[str, int], settings: dict[str, Any]
) -> None:
    """One sbatch: a job array where there are several."""
    import submitit

    script = str(code / Path(sys.argv[0]).name)
    first = {"slurm_python": settings["python"]} if settings.get("python") else {}
    executor = submitit.AutoExecutor(folder=settings["submitit_folder"], cluster="slurm", **first)
    # python puts the working directory first: the copy, not the working copy that may have changed
    own_setup = [f'export {WORKING_FOLDER}="$PWD"', f'cd "{code}"']
    parameters = {
        (k if k in PLAIN else f"slurm_{k}"): v for k, v in settings.items() if k not in OWN and v not in (None, [])
    }
    parameters |= {"nodes": resources["nodes"], "tasks_per_node": 1}
    more = {k: v for k, v in (settings.get("additional_parameters") or {}).items() if v is not None}
    if more.get("requeue") is False:  # sbatch has another word for it
        more["no_requeue"] = not more.pop("requeue")
    parameters["slurm_additional_parameters"] = more
    if resources["gpus"]:
        parameters["gpus_per_node"] = resources["gpus"]
    if settings.get("cpus_per_task"):
        own_setup.append("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK")
    parameters["slurm_setup"] = [*(settings.get("setup") or []), *own_setup]
    try:
        executor.update_parameters(**parameters)
        submitted = executor.map_array(Job(script), [str(folder / job.name) for job in jobs])
    except Exception as error:
        raise UserError(f"SLURM does not take the job: {_reason(error)}") from error
    numbers = noted(folder) | {job.name: s.job_id for job, s in zip(jobs, submitted, strict=True)}
    write_atomic(folder / slurm_state.SUBMITTED, json.dumps(numbers, indent=1) + "\n")
    console.say(f"submitted {len(jobs)} job{'s' if len(jobs) > 1 else ''}: {', '.join(s.job_id for s in submitted)}")


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "sbatch: error" in line] or [first_line(error)]
    return "; ".join(line.removeprefix("sbatch: error: ") for line in lines)


def watch(folder: Path, names: list[str]) -> None:
    """Wait until every job has ended, saying what changes. Ctrl-C stops the waiting, not the jobs."""
    said: dict[str, str] = {}
    gone: dict[str, int] = {}
    try:
        while True:
            states = slurm_state.states(folder)
            for name in names:
                state = states.get(name, "UNKNOWN")
                gone[name] = 0 if state in slurm_state.ALIVE else gone.get(name, 0) + 1
                if said.get(name) != state:
                    said[name] = state
                    console.say(f"{name}: {state.lower()}")
            # a job that was preempted, or whose node failed, is back in the queue a moment later
            if all(gone[name] >= (1 if said[name] in slurm_state.FINAL else 6) for name in names):
                return
            time.sleep(POLL)
    except KeyboardInterrupt:
        console.say(f"\nthe jobs go on; their state:  python -m alpaca.results {folder}\nscancel stops them")
        raise
