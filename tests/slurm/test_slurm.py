"""Jobs on a real SLURM of two nodes: arrays, several nodes, preemption, time limit, requeue, scancel, sudden death."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alpaca import multirun, slurm, slurm_job, slurm_state
from tests import forks
from tests.commands import ROOT, readme_commands, run_python
from tests.slurm.conftest import NODES, ask, wait_for
from tests.test_wandb import environment as wandb_environment
from tests.wandb_server import Server

REAL = f"hydra.launcher.python={sys.executable}"
"""Else a job's training is forked, as the command that submits it: SLURM's signals reach it, but none of its workers."""
pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("cluster")]
LAUNCHER = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.timeout_min=20",
            "hydra.launcher.cpus_per_task=1"]  # fmt: skip
TINY = [
    "model=tiny_opt", "model.vocab_size=300", "model.architecture.hidden_size=32", "model.architecture.ffn_dim=64",
    "model.architecture.word_embed_proj_dim=32", "model.architecture.num_attention_heads=2",
    "model.architecture.num_hidden_layers=1", "model.architecture.dropout=0.1", "data.limit=24",
    "prompt=alpaca_short", "max_length=128", "batch.global_size=8", "batch.per_device=4", "check_saved=false",
    "rehearse_save=false", "trainer.save_strategy=steps", "trainer.save_steps=100000",
]  # fmt: skip


def submit(
    *words: str, script: str = "train.py", code: int = 0, project: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    flags, settings = [w for w in words if w == "-m"], [w for w in words if w != "-m"]
    command = [script, *flags, *LAUNCHER, *settings]
    given = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"} | environment
    if project == ROOT:
        done = forks.run(command, ROOT, given)
    else:  # a fork has read this copy of the code
        done = subprocess.run([sys.executable, *command], cwd=project, capture_output=True, text=True, timeout=500, env=given)  # fmt: skip
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done


def long_run(folder: Path, tmp_path: Path, steps: int, *words: str) -> tuple[Path, str]:
    """A run that is submitted and left; its folder and job number, once it has made some steps."""
    submit(*TINY, f"trainer.max_steps={steps}", f"data.cache={tmp_path / 'cache'}", f"hydra.sweep.dir={folder}",
           "hydra.launcher.wait=false", *words)  # fmt: skip
    wait_for(lambda: steps_of(folder / "0") > 5, "the first steps")
    return folder / "0", slurm.noted(folder)["0"]


def steps_of(run: Path) -> int:
    return len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").is_file() else 0


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text()) if (run / "result.json").is_file() else {}


def weights(run: Path) -> str:
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def restarts(number: str) -> int:
    return int(ask("scontrol", "show", "job", number).partition("Restarts=")[2].split()[0])


def submit_urgent(command: str) -> None:
    """A job that takes both nodes from the others; tried again where a busy controller does not answer."""
    words = ("sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", command)
    wait_for(lambda: ask(*words).strip().isdigit(), "the urgent job to be taken", 60)


def queued_again(run: Path, number: str, why: str, seconds: float = 150) -> None:
    """Until the job went back into the queue once; fails at once, with what it wrote, where it ended instead."""

    def is_queued_again() -> bool:
        if restarts(number) == 0 and (state := slurm_state.by_id([number]).get(number)) in ("COMPLETED", "FAILED"):
            wrote = [p.read_text(errors="replace")[-3000:] for p in (run.parent / ".submitit").rglob("*_log.err")]
            pytest.fail("\n".join([f"{state} before {why}", *wrote]))
        return restarts(number) == 1

    wait_for(is_queued_again, why, seconds)


def came_back_whole(run: Path, number: str, whole: Path) -> None:
    """The job came back once at least, in the same folder, and its weights are the undisturbed run's."""
    wait_for(lambda: result(run).get("status") == "completed", "the job to come back and complete", 240)
    assert restarts(number) >= 1
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in lines] == list(range(1, len(lines) + 1))
    assert weights(run) == weights(whole)


STEPS = 500


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long run, undisturbed."""
    tmp_path = tmp_path_factory.mktemp("whole")
    words = [
        *TINY,
        f"trainer.max_steps={STEPS}",
        f"data.cache={tmp_path / 'cache'}",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    run_python("train.py", *words, OMP_NUM_THREADS="1")
    return tmp_path / "run"


def test_a_multirun_is_a_job_array_whose_failures_hide_nothing(cluster: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    words = ["-m", "method=lora", "method.lora.r=2,4,7,8", "launch.processes=1", "hydra.launcher.cpus_per_task=3"]
    words += [f"hydra.sweep.dir={folder}"]  # three of a node's four processors: two jobs need both nodes
    done = submit(*words, script="tests/sweep_job.py", code=1)
    numbers = slurm.noted(folder)
    assert len({n.partition("_")[0] for n in numbers.values()}) == 1 and len(set(numbers.values())) == 4
    array = next(iter(numbers.values())).partition("_")[0]
    assert set(ask("squeue", "-h", "-t", "all", "-j", array, "-o", "%N").split()) == set(NODES)
    assert "method.lora.r-7: failed (method.lora.r=7 is not allowed here)" in done.stderr
    assert "method.lora.r-8: failed (the process ended without a word (exit code 5))" in done.stderr
    assert done.stdout.count("completed") == 2
    (folder / "mended").touch()
    done = submit(*words[:-1], f"sweep.resume={folder}", script="tests/sweep_job.py", code=1)
    assert "submitted 2 jobs" in done.stderr and "1 of 4 runs did not complete" in done.stderr
    faulty = submit("-m", "method=lora", "method.lora.r=0", f"hydra.sweep.dir={tmp_path / 'faulty'}", code=1)
    assert "0: not submitted: method.lora.r=0 is not allowed" in faulty.stderr


def test_gpus_and_nodes_of_a_job_are_those_of_launch() -> None:
    jobs = [
        slurm.Composed(str(i), [], {"launch": {"nodes": nodes, "processes": processes}})
        for i, (nodes, processes) in enumerate([(1, "auto"), (2, 8), (2, 8)])
    ]
    groups = slurm._by_resources(jobs, {"gpus_per_node": "auto"})
    assert {key: len(group) for key, group in groups.items()} == {(1, 1): 1, (2, 8): 2}
    assert set(slurm._by_resources(jobs, {"gpus_per_node": 0})) == {(1, 0), (2, 0)}


def test_a_run_preempted_and_then_requeued_ends_with_the_same_weights(tmp_path: Path, whole: Path) -> None:
    run, number = long_run(tmp_path / "sweep", tmp_path, STEPS)
    submit_urgent("true")
    queued_again(run, number, "the preemption")
    assert result(run)["status"] == "interrupted"
    saved = slurm_job.saved_step(str(run))
    assert 0 < saved < STEPS
    wait_for(lambda: steps_of(run) > saved + 5, "the job to come back", 240)
    ask("scontrol", "requeue", number)
    came_back_whole(run, number, whole)
    assert restarts(number) == 2


def test_a_run_over_two_nodes_preempted_and_then_requeued_ends_with_the_same_weights(tmp_path: Path) -> None:
    steps, sharded = 300, ["strategy=fsdp", "launch.processes=1"]
    words = [
        *TINY,
        *sharded[:1],
        "launch.processes=2",
        f"trainer.max_steps={steps}",
        f"data.cache={tmp_path / 'cache'}",
    ]
    run_python("train.py", *words, f"hydra.run.dir={tmp_path / 'whole'}", OMP_NUM_THREADS="1")
    run, number = long_run(tmp_path / "sweep", tmp_path, steps, "launch.nodes=2", *sharded, REAL)
    submit_urgent("true")
    queued_again(run, number, "the preemption")
    saved = slurm_job.saved_step(str(run))
    assert 0 < saved < steps
    wait_for(lambda: steps_of(run) > saved + 5, "the job to come back", 240)
    ask("scontrol", "requeue", number)
    came_back_whole(run, number, tmp_path / "whole")
    assert restarts(number) == 2


def test_a_cancelled_job_ends_as_interrupted_and_stays_away(tmp_path: Path) -> None:
    run, number = long_run(tmp_path / "sweep", tmp_path, 100_000)
    ask("scancel", number)
    wait_for(lambda: slurm_state.by_id([number]).get(number) == "CANCELLED", "the job to be gone")
    assert result(run)["status"] == "interrupted" and restarts(number) == 0
    assert "interrupted" in run_python("-m", "alpaca.results", str(run.parent)).stdout
    assert multirun.read_job(run)["config"]["trainer"]["max_steps"] == 100_000


def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    """As they are written, with further overrides alone; the second one shards a run over two nodes."""
    given = [words for words in readme_commands("From a laptop to a cluster") if "hydra/launcher=slurm" in words]
    arrays = [words for words in readme_commands("From a laptop to a cluster") if words[0] == "sbatch"]
    assert [len(given), len(arrays)] == [2, 1]
    small = [*LAUNCHER, "hydra.launcher.partition=low", *TINY, "trainer.max_steps=3", "launch.processes=1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for number, words in enumerate(given):
        folder = tmp_path / str(number)
        places = [f"data.cache={tmp_path / 'cache'}", f"hydra.sweep.dir={folder}"]
        command = [str(ROOT / words[1]), *words[2:], *small, *places]
        done = forks.run(command, tmp_path, environment, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "0").glob("*/model/adapter_model.safetensors"))) == 3
    run = tmp_path / "1" / "0"
    wait_for(lambda: bool(result(run)), "the run on two nodes", 200)
    assert result(run)["status"] == "completed" and weights(run)
    assert "2 processes" in "".join(p.read_text() for p in (tmp_path / "1" / ".submitit").rglob("*_log.err"))

    server = Server([])  # with no suggestion left, agents start and end; what they do with one is in test_wandb
    try:
        words = [w.replace("ID", "team/alpaca/sweep1") for w in arrays[0]]
        options = ["--array=1-2", "--partition=low", "--output=agent-%a.log"]
        subprocess.run([*words, *options], cwd=tmp_path, env=wandb_environment(server), check=True, capture_output=True)
        begun = f"Loaded credentials for {server.address}"
        wait_for(lambda: sum(begun in p.read_text() for p in tmp_path.glob("agent-*.log")) == 2, "two agents", 120)
    finally:
        server.close()


def processes_of(number: str) -> list[int]:
    """Process ids of a job's tasks and what they started."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"SLURM_JOB_ID={number}".encode() in place.read_bytes().split(b"\0"):
                found.append(int(place.parent.name))
    return found


def test_what_was_submitted_runs_though_the_working_copy_changes_meanwhile(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for name in ("alpaca", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "tests" / "sweep_job.py", copy)
    words = ["method=lora", "method.lora.r=4", "launch.processes=1", f"hydra.sweep.dir={tmp_path / 'held'}",
             "hydra.launcher.wait=false", "+hydra.launcher.additional_parameters.hold=true"]  # fmt: skip
    submit(*words, script="sweep_job.py", project=copy)
    for path in (copy / "sweep_job.py", copy / "alpaca" / "multirun.py", copy / "alpaca" / "slurm_job.py"):
        path.write_text("raise SystemExit('edited while the job waited')\n")
    (copy / "conf" / "train.yaml").write_text("seed: 7\n")
    run, number = tmp_path / "held" / "0", slurm.noted(tmp_path / "held")["0"]
    assert slurm_state.by_id([number]) == {number: "PENDING"} and result(run) == {}
    ask("scontrol", "release", number)
    wait_for(lambda: result(run).get("status") == "completed", "the job")


def waiting_job(tmp_path: Path, *words: str) -> tuple[Path, str]:
    """A job that has made its steps and now does nothing for a while; its folder and job number."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "slow").touch()
    settings = ["method=lora", "method.lora.r=4", "launch.processes=1", "hydra.launcher.wait=false", *words]
    submit(*settings, f"hydra.sweep.dir={folder}", script="tests/sweep_job.py")
    wait_for(lambda: steps_of(folder / "0") == 20, "its steps")
    return folder / "0", slurm.noted(folder)["0"]


def kill(processes: list[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def told(folder: Path) -> str:
    """What the summary says on stderr."""
    return forks.run(["-m", "alpaca.results", str(folder)], ROOT).stderr


def test_a_job_that_is_killed_with_all_its_processes_is_told_as_failed(tmp_path: Path) -> None:
    """Nobody of the job is left who could write a word."""
    run, number = waiting_job(tmp_path)
    kill(processes_of(number))
    wait_for(lambda: slurm_state.by_id([number]).get(number) == "FAILED", "the job to be gone")
    assert result(run) == {}
    assert "0: failed (the cluster says FAILED)" in told(run.parent)


def test_a_training_that_the_out_of_memory_killer_ends_is_told_as_failed(tmp_path: Path) -> None:
    """It takes the largest process, the training; the task that started it is left, and tells."""
    run, number = waiting_job(tmp_path)
    kill([p for p in processes_of(number) if "--job" in Path(f"/proc/{p}/cmdline").read_text()])
    wait_for(lambda: slurm_state.by_id([number]).get(number) == "FAILED", "the job to be gone")
    assert result(run)["status"] == "failed" and "killed by SIGKILL, as the kernel does" in result(run)["error"]
    assert "0: failed (the process ended without a word (killed by SIGKILL, as the kernel does" in told(run.parent)


def test_a_job_whose_node_dies_is_told_as_failed(cluster: Path, tmp_path: Path) -> None:
    """The node's daemon and all that ran under it are gone at once, as with a power cut."""
    run, number = waiting_job(tmp_path, "hydra.launcher.additional_parameters.requeue=false")
    node = ask("squeue", "-h", "-j", number, "-o", "%N").strip()
    try:
        steps = [int(p) for p in ask("pgrep", "-f", rf"^slurmstepd: \[{number}\.").split()]
        kill([int((cluster / f"slurmd-{node}.pid").read_text()), *steps, *processes_of(number)])
        ask("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")  # as SLURM does after SlurmdTimeout
        wait_for(lambda: slurm_state.by_id([number]).get(number) == "NODE_FAIL", "the job to be given up")
    finally:
        subprocess.run(["slurmd", "-N", node], check=True, capture_output=True)
        ask("scontrol", "update", f"nodename={node}", "state=resume")
        wait_for(lambda: ask("sinfo", "-h", "-n", node, "-p", "low", "-o", "%t").strip() == "idle", "the node")
    assert steps and result(run) == {}
    assert "0: failed (the cluster says NODE_FAIL)" in told(run.parent)


def test_a_time_limit_saves_and_the_job_comes_back_in_its_w_and_b_run(tmp_path: Path) -> None:
    words = [*TINY, f"data.cache={tmp_path / 'cache'}", "hydra.launcher.wait=false", "trainer.max_steps=1000000"]
    limits = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=60"]  # it comes up to 30 s before
    submit(*words, *limits, "tracker=wandb", f"hydra.sweep.dir={tmp_path / 'sweep'}", WANDB_MODE="offline")
    run, number = tmp_path / "sweep" / "0", slurm.noted(tmp_path / "sweep")["0"]
    queued_again(run, number, "the time limit", 240)
    saved = slurm_job.saved_step(str(run))
    assert saved > 0 and result(run)["status"] == "interrupted"
    identity = (run / "wandb_id").read_text()
    wait_for(lambda: steps_of(run) > saved + 5, "the job to come back", 240)
    ask("scancel", number)
    wait_for(lambda: slurm_state.by_id([number]).get(number) == "CANCELLED", "the job to be gone")
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > saved + 5
    assert (run / "wandb_id").read_text() == identity
    assert len(list((run / "wandb").glob(f"offline-run-*-{identity}"))) == 2  # two parts of one W&B run


def test_a_job_whose_node_is_set_down_goes_on_elsewhere(tmp_path: Path, whole: Path) -> None:
    run, number = long_run(tmp_path / "sweep", tmp_path, STEPS)
    node = ask("squeue", "-h", "-j", number, "-o", "%N").strip()
    try:
        ask("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
        wait_for(lambda: restarts(number) == 1, "the job to be queued again")
    finally:
        ask("scontrol", "update", f"nodename={node}", "state=resume")
    came_back_whole(run, number, whole)
    assert result(run)["status"] == "completed"
