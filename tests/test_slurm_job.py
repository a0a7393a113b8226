"""Which stopped jobs go back into the queue, and what the summary says of those that do not."""

import json
import os
from pathlib import Path

import pytest

from alpaca import checkpoints, multirun, slurm_job, slurm_state, summary
from alpaca.results import RunFolder

RUNNING = "JobId=7 JobState=RUNNING PreemptTime=None"


@pytest.mark.parametrize(
    ("shown", "warned_and_further", "comes_back"),
    [
        (RUNNING, True, True),
        (RUNNING, False, False),  # its time limit leaves no time for a step: it would come back for ever
        (RUNNING.replace("None", "2026-01-01T00:00:00"), False, True),
        (RUNNING.replace("RUNNING", "CANCELLED"), True, False),
        (f"{RUNNING} Requeue=1", True, True),
        (f"{RUNNING} Requeue=0", True, False),  # hydra.launcher.additional_parameters.requeue=false
    ],
)
def test_a_job_comes_back_when_preempted_or_further_than_before(
    shown: str, warned_and_further: bool, comes_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm_job, "_scontrol", lambda *words: shown)
    assert slurm_job._comes_back(warned_and_further) is comes_back


def test_only_finished_checkpoints_count_as_further(tmp_path: Path) -> None:
    assert slurm_job.saved_step(str(tmp_path)) == -1
    for step in (3, 12):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint-3" / checkpoints.MARKER).touch()
    assert slurm_job.saved_step(str(tmp_path)) == 3


STOPPED = {"status": "interrupted", "step": 3, "error": "stopped by SIGTERM"}


@pytest.mark.parametrize(
    ("result", "steps", "state", "expected"),
    [
        ({}, 2, "NODE_FAIL", ("failed", "the cluster says NODE_FAIL")),
        ({}, 0, "OUT_OF_MEMORY", ("failed", "the cluster says OUT_OF_MEMORY")),
        ({}, 2, "CANCELLED", ("interrupted", "the cluster says CANCELLED")),
        ({}, 2, "TIMEOUT", ("interrupted", "the cluster says TIMEOUT")),
        ({}, 2, "UNKNOWN", ("failed", "it ended without a word, and the cluster does not know the job (any more)")),
        ({"status": "failed", "step": 2, "error": "killed"}, 2, "OUT_OF_MEMORY",
         ("failed", "killed; the cluster says OUT_OF_MEMORY")),
        ({"status": "failed", "step": 2, "error": "not finite"}, 2, "FAILED", ("failed", "not finite")),
        (STOPPED, 3, "UNKNOWN", ("interrupted", "stopped by SIGTERM")),
        (STOPPED, 3, "PENDING", ("waiting", "stopped by SIGTERM")),
        (STOPPED, 4, "FAILED", ("failed", "the cluster says FAILED")),  # it came back, and died further on
        ({"status": "completed", "step": 4}, 4, "NODE_FAIL", ("completed", "")),
    ],
)  # fmt: skip
def test_what_the_cluster_knows_goes_into_the_summary(
    result: dict, steps: int, state: str, expected: tuple[str, str], tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "0")
    multirun.write_job(run.path, [], {})
    for step in range(1, steps + 1):
        run.append_metrics({"step": step, "loss": 1.0})
    if result:
        (run.path / "result.json").write_text(json.dumps(result))
    read = summary.read(run.path, {"0": state})
    assert (read.status, read.error) == expected and read.steps == steps


def test_states_come_from_squeue_where_there_is_no_accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in {
        "sacct": "echo Slurm accounting storage is disabled >&2; exit 1",
        "squeue": "printf '7_0|NODE_FAIL\\n7_1|OUT_OF_MEMORY\\n'",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / slurm_state.SUBMITTED).write_text('{"a": "7_0", "b": "7_1", "c": "8"}')
    assert slurm_state.states(tmp_path) == {"a": "NODE_FAIL", "b": "OUT_OF_MEMORY", "c": "UNKNOWN"}
