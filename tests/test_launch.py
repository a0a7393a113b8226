"""Several processes: the same steps as one, killed in every way, resumed on other numbers, started by torchrun."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alpaca import batch, by_hand, outcomes, workers
from alpaca.config import BatchConfig
from alpaca.errors import UserError, WorkerFailed
from alpaca.launch import launch
from alpaca.rank_batches import FILLER, Filled, RankBatches
from alpaca.results import RunFolder
from tests import processes as runs
from tests.commands import ROOT, compose, run_python
from tests.forks import Forked

TOKEN = [*runs.OPT, "trainer.train_sampling_strategy=group_by_length"]
MICROBATCH = [*runs.LLAMA, "loss_average=microbatch"]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launch")


def alone(settings: list[str], scratch: Path, name: str, steps: int = runs.STEPS) -> Path:
    """The same run in one process, in this one."""
    folder = scratch / name
    launch(compose(*settings, "launch.processes=1", f"data.cache={scratch / 'cache'}"), folder)
    assert len([m for m in runs.metrics(folder) if "loss" in m]) == steps
    return folder


@pytest.mark.slow
def test_two_processes_killed_twice_and_stopped_take_the_steps_of_one(scratch: Path) -> None:
    folder, settings = scratch / "token-2", [*TOKEN, "trainer.num_train_epochs=4"]
    alike = [*settings, f"hydra.run.dir={folder}", f"data.cache={scratch / 'cache'}"]
    words = [*alike, "launch.processes=2"]
    process = runs.start(*words)
    runs.wait_for_step(folder, 3, process)
    os.kill(runs.workers(folder)[1], signal.SIGKILL)  # one worker, as the kernel does
    said = process.communicate()[1]
    assert process.returncode == 1 and "worker 1 was killed by SIGKILL" in said.splitlines()[-1], said
    assert runs.result(folder)["status"] == "failed" and not runs.workers(folder)

    process = runs.start(*words)
    runs.wait_for_step(folder, 8, process)
    process.kill()  # the launcher: nothing can hand the signal on
    process.wait()
    until = time.monotonic() + 60
    while runs.workers(folder) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs.workers(folder)

    process = runs.start(*words)
    runs.wait_for_step(folder, 14, process)
    process.send_signal(signal.SIGINT)  # a terminal's reaches the launcher alone: workers have sessions of their own
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "starting 2 processes (strategy=ddp)" in said and "resuming from" in said
    stopped = runs.result(folder)
    assert stopped["status"] == "interrupted" and stopped["step"] >= 14 and "saved" in stopped["error"]
    assert not runs.workers(folder)

    runs.together(2, "train.py", *alike)
    assert runs.differ(folder, alone(settings, scratch, "token-1", 2 * runs.STEPS)) < 1e-4
    assert runs.result(folder)["status"] == "completed"


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_goes_on_with_one_and_with_four(scratch: Path) -> None:
    folder = scratch / "microbatch-2"
    words = [*MICROBATCH, f"data.cache={scratch / 'cache'}"]
    process = runs.start(*words, "launch.processes=2", f"hydra.run.dir={folder}")
    runs.wait_for_step(folder, 3, process)
    process.terminate()
    said = process.communicate()[1]
    assert process.returncode == 143, said
    stopped = runs.result(folder)
    assert stopped["status"] == "interrupted" and stopped["step"] >= 3 and "saved" in stopped["error"]
    assert not runs.workers(folder)

    whole = alone(MICROBATCH, scratch, "microbatch-1")
    four = Path(shutil.copytree(folder, scratch / "microbatch-4"))
    launch(compose(*words, "launch.processes=1"), folder)
    assert runs.differ(folder, whole) < 1e-4
    runs.together(4, "train.py", *words, f"hydra.run.dir={four}")
    assert runs.differ(four, whole) < 1e-4


@pytest.mark.slow
def test_a_worker_s_error_is_told_once_and_in_a_line(scratch: Path) -> None:
    folder = scratch / "exploding"
    more = ["launch.processes=2", "trainer.learning_rate=1e30", "trainer.max_grad_norm=0", "trainer.warmup_steps=0"]
    words = [*TOKEN, *more, f"hydra.run.dir={folder}", f"data.cache={scratch / 'cache'}"]
    done = run_python("train.py", *words, code=2)
    assert done.stderr.count("error: the loss is not finite at step") == 1 and "Traceback" not in done.stderr
    assert runs.result(folder)["status"] == "failed"


@pytest.mark.slow
def test_torchrun_by_hand_killed_stopped_and_gone_on(scratch: Path) -> None:
    folder = scratch / "by-hand"
    words = [*TOKEN, f"hydra.run.dir={folder}", f"data.cache={scratch / 'cache'}", "trainer.num_train_epochs=5"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    mark = f"hydra.run.dir={folder}"

    def start() -> Forked:
        return Forked([*torchrun, *words], ROOT)

    process = start()
    runs.wait_for_step(folder, 3, process)
    os.kill(runs.workers(folder, "train.py", mark)[0], signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "[rank1]" not in said, said  # no traceback of the one that did nothing wrong
    assert runs.result(folder)["error"].startswith("another process of this run is gone: its own error")
    assert runs.result(folder)["status"] == "failed" and not runs.workers(folder, "train.py", mark)

    process = start()
    runs.wait_for_step(folder, 7, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    stopped = runs.result(folder)
    assert stopped["status"] == "interrupted" and stopped["step"] >= 7 and "saved" in stopped["error"], said
    assert not runs.workers(folder, "train.py", mark)

    process = start()
    said = process.communicate(timeout=400)[1]
    assert process.returncode == 0 and "x 2 processes" in said and said.count("run folder ") == 1, said
    assert f"resuming from {folder}/checkpoints/checkpoint-{stopped['step']} " in said
    assert [m["step"] for m in runs.metrics(folder) if "loss" in m] == list(range(1, 31))
    done = runs.result(folder)
    assert done["status"] == "completed" and len(done["warnings"]) == len(set(done["warnings"])) > 0


@pytest.mark.slow
def test_two_nodes_by_hand(scratch: Path) -> None:
    folder = scratch / "nodes"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*TOKEN, f"hydra.run.dir={folder}", f"data.cache={scratch / 'cache'}", "trainer.max_steps=3"]
    words += ["launch.nodes=2", "launch.processes=1", f"launch.rendezvous=127.0.0.1:{port}"]
    nodes = [runs.start(*words, f"launch.node_rank={rank}") for rank in (1, 0)]
    said = [node.communicate(timeout=400)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert [m["step"] for m in runs.metrics(folder) if "loss" in m] == [1, 2, 3]
    assert "x 2 processes" in said[0] + said[1] and runs.result(folder)["status"] == "completed"


def test_device_map_without_a_gpu_is_one_plain_process(scratch: Path) -> None:
    words = [*MICROBATCH, "trainer.max_steps=2", f"data.cache={scratch / 'cache'}", "rehearse_save=false"]
    for strategy in ("device_map", "single"):
        launch(compose(*words, f"strategy={strategy}"), scratch / strategy)
    assert runs.differ(scratch / "device_map", scratch / "single") == 0


def test_processes_share_out_the_batches_of_one() -> None:
    for rows in (1, 2, 7, 8, 9, 42):
        for count in (2, 3, 4):
            for drop in (False, True):
                one = list(RankBatches(range(rows), 2, 1, 0, drop))
                dealt = [list(RankBatches(range(rows), 2, count, rank, drop)) for rank in range(count)]
                turns = [b for turn in zip(*dealt, strict=True) for b in turn]
                assert turns[: len(one)] == one and all(b == [FILLER] for b in turns[len(one) :])
                assert len(turns) - len(one) < count
                assert {len(d) for d in dealt} == {len(RankBatches(range(rows), 2, count, 0, drop))}


def test_a_filler_carries_no_loss() -> None:
    rows = [{"input_ids": [1, 5, 6], "labels": [-100, 5, 6], "row": 0}]
    assert Filled(rows)[FILLER] == {"input_ids": [1, 5], "labels": [-100, -100], "row": FILLER}
    assert Filled(rows)[0] == rows[0]


@pytest.mark.parametrize("drop", [False, True])
def test_steps_do_not_depend_on_the_number_of_processes(drop: bool) -> None:
    for rows in (7, 8, 42, 44, 52002):
        plans = {batch.plan(BatchConfig(8, 2), n, rows, 3, drop_last=drop).steps for n in (1, 2, 4)}
        assert len(plans) == 1


def outcome(rank: int, time: float, **more: object) -> outcomes.Outcome:
    return outcomes.Outcome(rank, rank, "failed", time, **more)  # type: ignore[arg-type]


def test_the_first_worker_s_own_error_comes_before_those_it_caused(capsys: pytest.CaptureFixture) -> None:
    own = outcome(1, 2.0, error="ValueError: bad row", trace="Traceback: bad row")
    caused = outcome(0, 1.0, error="RuntimeError: Connection closed by peer", lost_peer=True)
    with pytest.raises(WorkerFailed, match="worker 1 failed: ValueError: bad row"):
        outcomes.raise_first({0: caused, 1: own}, {0: 1, 1: 1})
    assert "worker 1 failed first:\nTraceback: bad row" in capsys.readouterr().err
    with pytest.raises(WorkerFailed, match="worker 1 ended with exit code 7 without saying why"):
        outcomes.raise_first({0: caused}, {0: 1, 1: 7})
    with pytest.raises(WorkerFailed, match="worker 1 was killed by SIGSEGV"):
        outcomes.raise_first({}, {0: -9, 1: -11})
    with pytest.raises(UserError, match="no space"):
        outcomes.raise_first({0: outcome(0, 3.0, kind="user", error="no space")}, {0: 2, 1: -9})
    outcomes.raise_first({}, {})


def test_a_worker_that_hangs_after_another_failed_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "GRACE", 0.2)
    code = ["-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"]
    hanging = subprocess.Popen([sys.executable, *code], start_new_session=True)
    failed = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    failed.wait()
    workers.end_together([hanging, failed])
    assert hanging.poll() == -signal.SIGKILL


TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"}
TORCHRUN |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "words", "expected"),
    [
        (TORCHRUN, ["launch.processes=4"], "a launch inside a launch: torchrun has started 2 processes on 1 node"),
        (TORCHRUN, ["strategy=device_map"], "strategy=device_map is one process"),
        ({outcomes.FOLDER: "/tmp"}, [], "cannot be launched inside a worker of another run"),
    ],
)
def test_a_launch_inside_a_launch_is_refused(
    environment: dict, words: list, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected):
        by_hand.check(compose(*words), tmp_path)


@pytest.mark.parametrize("moment", ["while it unwinds", "while it is told"])
def test_what_is_left_of_a_run_is_told_though_torchrun_stops_it(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (TORCHRUN | {"RANK": "1", "LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)

    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)  # the handler runs between two instructions

    def lose_the_other(*_: object) -> None:
        try:
            raise RuntimeError("Connection closed by peer [127.0.0.1]:1")
        finally:
            if moment == "while it unwinds":
                terminate()

    write = RunFolder.write_result
    monkeypatch.setattr(RunFolder, "write_result", lambda *a, **k: (terminate(), write(*a, **k)))
    monkeypatch.setattr("alpaca.launch.work", lose_the_other)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(WorkerFailed, match="another process of this run is gone"):
        launch(compose(), tmp_path)
    assert runs.result(tmp_path)["error"].startswith("another process of this run is gone")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["strategy=single", "launch.processes=2"], "strategy=single is one process"),
        (["strategy=device_map", "launch.processes=2"], "strategy=device_map spreads one process"),
        (["launch.nodes=2"], "launch.rendezvous is missing"),
    ],
)
def test_launch_settings_that_do_not_go_together(words: list, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        compose(*words)
