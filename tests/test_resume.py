"""A run that is killed, damaged or interrupted goes on to the same losses and the same weights, bit for bit."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from alpaca import checkpoints
from alpaca.errors import UserError
from alpaca.launch import launch
from tests.commands import ROOT, compose, run_python
from tests.forks import Forked

SETTINGS = [
    "model=tiny_opt",
    "model.architecture.hidden_size=32",
    "model.architecture.word_embed_proj_dim=32",
    "model.architecture.num_attention_heads=2",
    "model.architecture.num_hidden_layers=2",
    "model.architecture.ffn_dim=64",
    "model.architecture.dropout=0.1",
    "model.vocab_size=400",
    "data.limit=60",
    "prompt=alpaca_short",
    "max_length=128",
    "batch.global_size=8",
    "batch.per_device=4",
    "trainer.num_train_epochs=3",
    "trainer.save_steps=2",
    "trainer.train_sampling_strategy=group_by_length",
    "check_saved=false",
]
STEPS = 24


def command(folder: Path, *more: str) -> list[str]:
    return ["train.py", *SETTINGS, f"hydra.run.dir={folder}", f"data.cache={folder.parent / 'cache'}", *more]


def losses(folder: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(m["step"], m["loss"], m["learning_rate"], m["grad_norm"], m["tokens"]) for m in lines]


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_python(*command(folder))
    assert [m[0] for m in losses(folder)] == list(range(1, STEPS + 1))
    return folder


def start(folder: Path) -> Forked:
    return Forked(command(folder), ROOT)


def wait_for_step(folder: Path, step: int, process: Forked) -> None:
    while process.poll() is None:
        if (folder / "metrics.jsonl").is_file() and len((folder / "metrics.jsonl").read_text().splitlines()) >= step:
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_at_five_random_moments_ends_like_an_undisturbed_run(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    moments = sorted(random.Random(time.time_ns()).sample(range(1, STEPS), 5))
    print("killed after steps", moments)
    for step in moments:
        process = start(folder)
        wait_for_step(folder, step, process)
        time.sleep(random.random() * 0.05)
        process.kill()
        process.wait()
    run_python(*command(folder))
    assert losses(folder) == losses(whole)
    assert weights(folder) == weights(whole)
    assert json.loads((folder / "result.json").read_text())["status"] == "completed"


@pytest.mark.slow
def test_interrupt_saves_and_a_damaged_newest_checkpoint_is_passed_over(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    wait_for_step(folder, 5, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "interrupted" and result["step"] >= 5
    newest = checkpoints.newest(folder / "checkpoints")
    assert newest is not None and checkpoints.step_of(newest) == result["step"]
    os.truncate(newest / "optimizer.pt", 100)
    done = run_python(*command(folder))
    assert "is passed over: optimizer.pt has 100 bytes" in done.stderr
    assert "resuming from" in done.stderr
    assert losses(folder) == losses(whole) and weights(folder) == weights(whole)


def test_a_run_killed_after_its_last_step_takes_no_other(tmp_path: Path) -> None:
    """Its last checkpoint is whole, its model is not: nothing is left to train, in the middle of an epoch too."""
    config = compose(*SETTINGS, f"data.cache={tmp_path / 'cache'}", "trainer.max_steps=3", "trainer.save_steps=3")
    folder = tmp_path / "run"
    launch(config, folder)
    before = (losses(folder), weights(folder))
    shutil.rmtree(folder / "model")
    (folder / "result.json").unlink()
    launch(config, folder)
    assert (losses(folder), weights(folder)) == before
    assert json.loads((folder / "result.json").read_text())["step"] == 3
    assert [c.name for c in (folder / "checkpoints").iterdir()] == ["checkpoint-3"]


CHANGES = {
    "rows": (["data.limit=59"], "the rows, the tokenizer, the prompt"),
    "seed": (["seed=7"], "seed=42 then, 7 now"),
    "batch": (["batch.global_size=12"], "batch.global_size=8 then, 12 now"),
    "rank": (["method=lora", "trainer.learning_rate=2e-3"], "is of another model or method"),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that was stopped after its first checkpoint, and its data cache."""
    folder = tmp_path_factory.mktemp("stopped")
    settings = [*SETTINGS, f"data.cache={folder / 'cache'}", "trainer.max_steps=2", "rehearse_save=false"]
    launch(compose(*settings), folder / "run")
    shutil.rmtree(folder / "run" / "model")
    (folder / "run" / "result.json").unlink()
    return folder / "run", folder / "cache"


@pytest.mark.parametrize("change", CHANGES)
def test_what_would_change_the_order_of_the_rows_is_refused(
    change: str, stopped: tuple[Path, Path], tmp_path: Path
) -> None:
    overrides, said = CHANGES[change]
    folder = tmp_path / "run"
    shutil.copytree(stopped[0], folder)
    with pytest.raises(UserError, match=re.escape(said)):
        launch(compose(*SETTINGS, f"data.cache={stopped[1]}", *overrides), folder)
    assert checkpoints.newest(folder / "checkpoints") is not None


def test_batches_that_do_not_divide_and_lost_checkpoints_cost_no_loading(tmp_path: Path) -> None:
    missing = f"data.path={tmp_path / 'never read.jsonl'}"
    with pytest.raises(UserError, match="batch.global_size=10 is not a multiple"):
        launch(compose("batch.global_size=10", "batch.per_device=4", "data=custom", missing), tmp_path / "a")
    with pytest.raises(UserError, match="resume=/nope is not a folder"):
        launch(compose("resume=/nope", "data=custom", missing), tmp_path / "b")


def test_a_completed_run_is_not_run_again(whole: Path) -> None:
    before = (whole / "result.json").read_text()
    done = run_python(*command(whole))
    assert "completed already" in done.stderr and (whole / "result.json").read_text() == before
    done = run_python(*command(whole, "trainer.learning_rate=1e-5"), code=2)
    assert "completed run with other settings (trainer.learning_rate)" in done.stderr


def test_the_run_folder_holds_what_the_readme_says(whole: Path) -> None:
    for name in (
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "loss.png",
        "checkpoints",
        "model",
        "result.json",
        "base",
    ):
        assert (whole / name).exists(), name
    for name in ("config.json", "model.safetensors", "tokenizer.json", "prompt.json", "README.md"):
        assert (whole / "model" / name).is_file(), name
    assert len(list((whole / "checkpoints").iterdir())) == 2


def fill(folder: Path, names: dict[str, bytes], state: dict) -> Path:
    staged = folder / checkpoints.STAGING
    staged.mkdir(parents=True)
    for name, content in names.items():
        (staged / name).write_bytes(content)
    final = folder / f"checkpoint-{state['step']}"
    checkpoints.commit(staged, final, state)
    return final


DAMAGES = {
    "marker missing": lambda c: (c / checkpoints.MARKER).unlink(),
    "marker truncated": lambda c: os.truncate(c / checkpoints.MARKER, 10),
    "marker empty": lambda c: os.truncate(c / checkpoints.MARKER, 0),
    "marker a list": lambda c: (c / checkpoints.MARKER).write_text("[]"),
    "marker binary": lambda c: (c / checkpoints.MARKER).write_bytes(b"\xff\xfe"),
    "file missing": lambda c: (c / "model.safetensors").unlink(),
    "file truncated": lambda c: os.truncate(c / "model.safetensors", 1),
    "file longer": lambda c: (c / "model.safetensors").write_bytes(b"abcd"),
    "one byte changed": lambda c: (c / "model.safetensors").write_bytes(b"abd"),
    "optimiser missing": lambda c: (c / "optimizer.pt").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_seen_and_the_checkpoint_before_is_taken(damage: str, tmp_path: Path) -> None:
    files = {"model.safetensors": b"abc", "optimizer.pt": b"xyz"}
    older, newer = fill(tmp_path, files, {"step": 2}), fill(tmp_path, files, {"step": 10})
    assert checkpoints.newest(tmp_path) == newer and checkpoints.state(newer) == {"step": 10}
    DAMAGES[damage](newer)
    assert checkpoints.fault(newer) is not None
    assert checkpoints.newest(tmp_path) == older


def test_rotation_keeps_the_newest_and_never_counts_damaged_ones(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        fill(tmp_path, {"a": b"a"}, {"step": step})
    (tmp_path / "checkpoint-8" / checkpoints.MARKER).unlink()
    checkpoints.rotate(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-6", "checkpoint-8"]
