"""Which stopped jobs go back into the queue."""

from pathlib import Path

import pytest

from alpaca import checkpoints, slurm_job

RUNNING = "JobId=7 JobState=RUNNING PreemptTime=None"


@pytest.mark.parametrize(
    ("shown", "warned_and_further", "comes_back"),
    [
        (RUNNING, True, True),
        (RUNNING, False, False),  # its time limit leaves no time for a step: it would come back for ever
        (RUNNING.replace("None", "2026-01-01T00:00:00"), False, True),
        (RUNNING.replace("RUNNING", "CANCELLED"), True, False),
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
