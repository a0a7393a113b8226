"""FSDP2 on two processes in host memory: really cut, the steps of one process, resumed after kill -9."""

import shutil
from pathlib import Path

import pytest
import torch

from alpaca import checkpoints, sharding
from alpaca.errors import UserError
from alpaca.launch import launch
from alpaca.training import check_engine
from tests import processes as runs
from tests.helpers import compose, run_python

SETTINGS = {"llama": runs.LLAMA, "opt": runs.OPT}
CASES = [("llama", ["strategy=fsdp"])]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharding")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "strategy"), CASES, ids=[words[0] for _, words in CASES])
def test_cut_over_two_processes_killed_and_resumed(family: str, strategy: list[str], scratch: Path) -> None:
    words = [*SETTINGS[family], f"data.cache={scratch / 'cache'}"]
    alone = scratch / f"{family}-alone"
    launch(compose(*words, "launch.processes=1"), alone)
    folder = scratch / f"{family}-cut"
    several = [*words, *strategy, "launch.processes=2", f"hydra.run.dir={folder}", "check_saved=true"]
    process = runs.start(*several)
    runs.wait_for_step(folder, 5, process)
    process.kill()
    process.communicate()
    copy = Path(shutil.copytree(folder, scratch / f"{family}-four"))
    done = run_python("train.py", *several)
    assert "over 2 processes; this one holds" in done.stderr and "resuming from" in done.stderr
    assert "reloaded in a fresh process" in done.stderr
    assert runs.differ(folder, alone) < 1e-4
    if strategy == ["strategy=fsdp"]:
        one = Path(shutil.copytree(copy, scratch / f"{family}-one"))
        launch(compose(*words, *strategy, "launch.processes=1"), one)
        assert runs.differ(one, alone) < 1e-4


def test_a_model_that_is_whole_is_refused() -> None:
    with pytest.raises(RuntimeError, match="2 parameters are whole on every process"):
        sharding.report(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="_no_split_modules"):
        sharding.blocks(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("state", "words", "expected"),
    [
        ({"engine": "fsdp", "processes": 2}, ["strategy=ddp"], "was written by strategy=fsdp"),
        ({"engine": "deepspeed", "processes": 2}, ["strategy=deepspeed"], "by DeepSpeed on 2 processes"),
    ],
)
def test_checkpoints_that_cannot_be_gone_on_from(state: dict, words: list[str], expected: str, tmp_path: Path) -> None:
    staged = tmp_path / checkpoints.STAGING
    staged.mkdir()
    checkpoints.commit(staged, tmp_path / "checkpoint-2", {"step": 2, **state})
    with pytest.raises(UserError, match=expected):
        check_engine(compose(*words), tmp_path / "checkpoint-2")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["strategy=fsdp", "strategy.offload=optimizer"], "goes with strategy=deepspeed"),
        (["strategy=deepspeed", "strategy.stage=2", "strategy.offload=all"], "needs strategy.stage=3"),
        (["strategy=ddp", "strategy.offload=all"], "goes with strategy=fsdp or deepspeed"),
        (["strategy=fsdp", "trainer.torch_compile=true"], "torch_compile cannot be with strategy=fsdp"),
        (["method=qlora", "trainer.torch_compile=true"], "cannot be with a quantised base"),
    ],
)
def test_settings_that_do_not_go_together(words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        compose(*words)
