"""On a device that runs ahead no step waits: losses and logs are read with the next one, and before anything is saved."""

import json
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alpaca import padding_free, trainer
from alpaca.errors import UserError
from alpaca.launch import launch
from tests import processes as runs
from tests.commands import compose

SETTINGS = [*runs.LLAMA, "trainer.num_train_epochs=1", "rehearse_save=false", "launch.processes=1"]


IN_HOST_MEMORY = ("forward_check.py", "/torch/optim/", "/torch/utils/data/", "chunked_loss.py")
"""Who may look: the check before the first step, AdamW at its count, a loader at its seed, a CPU's loss at its scale."""


class Waits(TorchDispatchMode):
    """Counts the reads of a single number out of a tensor, by who asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            frames = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack()]
            known = (part for part in IN_HOST_MEMORY if any(part in f for f in frames))
            self.places[next(known, "\n".join(f for f in frames if "/alpaca/" in f or "/transformers/" in f))] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Losses are read late, and every look at a tensor while steps are taken is counted."""
    waits = Waits()
    steps = trainer.AlpacaTrainer._run_epoch

    def counted(self: Any, *positional: Any, **keywords: Any) -> None:
        with waits:
            steps(self, *positional, **keywords)

    monkeypatch.setattr(trainer.AlpacaTrainer, "late", property(lambda self: True))
    monkeypatch.setattr(trainer.AlpacaTrainer, "_run_epoch", counted)
    yield waits


def test_no_step_waits_for_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*SETTINGS, f"data.cache={tmp_path / 'cache'}", "data.validation=null", "trainer.save_strategy=no"]
    launch(compose(*words), tmp_path / "at once")
    with as_on_a_gpu(monkeypatch) as waits:
        launch(compose(*words), tmp_path / "late")
    assert waits.places["forward_check.py"] > 0  # before the first step
    assert set(waits.places) <= set(IN_HOST_MEMORY)
    late, at_once = (runs.metrics(tmp_path / name) for name in ("late", "at once"))
    assert [m | {"seconds": 0} for m in late] == [m | {"seconds": 0} for m in at_once]


def test_logs_keep_their_order_around_evaluations_and_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*SETTINGS, f"data.cache={tmp_path / 'cache'}", "trainer.eval_steps=2", "trainer.save_steps=3"]
    with as_on_a_gpu(monkeypatch):
        launch(compose(*words), tmp_path / "run")
    lines = [(m["step"], "eval_loss" in m) for m in runs.metrics(tmp_path / "run")]
    assert lines == sorted(lines) and [s for s, e in lines if not e] == [1, 2, 3, 4, 5, 6]
    state = json.loads((tmp_path / "run" / "checkpoints" / "checkpoint-3" / "trainer_state.json").read_text())
    assert [h["step"] for h in state["log_history"] if "loss" in h] == [1, 2, 3]


def test_a_loss_that_is_not_finite_is_in_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*SETTINGS, f"data.cache={tmp_path / 'cache'}", "trainer.save_steps=1"]
    losses = trainer.AlpacaTrainer.forward_loss

    def broken(self: Any, model: Any, batch: Any, divisor: Any) -> Any:
        found = losses(self, model, batch, divisor)
        return found._replace(total=found.total * (float("nan") if self.state.global_step == 2 else 1.0))

    monkeypatch.setattr(trainer.AlpacaTrainer, "forward_loss", broken)
    with as_on_a_gpu(monkeypatch), pytest.raises(UserError, match=r"not finite at step 3 .* No checkpoint holds it"):
        launch(compose(*words), tmp_path / "run")
    assert sorted(c.name for c in (tmp_path / "run" / "checkpoints").iterdir()) == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize(("step", "crash", "expected"), [(5, None, UserError), (3, MemoryError("full"), MemoryError)])
def test_the_steps_before_a_fault_are_in_the_metrics(
    step: int, crash: Exception | None, expected: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*SETTINGS, f"data.cache={tmp_path / 'cache'}", "data.validation=null", "trainer.save_strategy=no"]
    losses = trainer.AlpacaTrainer.forward_loss

    def broken(self: Any, model: Any, batch: Any, divisor: Any) -> Any:
        found = losses(self, model, batch, divisor)
        if self.state.global_step == step and crash is not None:
            raise crash
        return found._replace(total=found.total * (float("nan") if self.state.global_step == step else 1.0))

    monkeypatch.setattr(trainer.AlpacaTrainer, "forward_loss", broken)
    with as_on_a_gpu(monkeypatch), pytest.raises(expected):
        launch(compose(*words), tmp_path / "run")
    assert [m["step"] for m in runs.metrics(tmp_path / "run")] == list(range(1, step + 1))


def test_a_gpu_s_copies_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Pinned(torch.Tensor):
        def pin_memory(self, *words: Any) -> Any:
            asked.append({"pinned": True})
            return self

        def to(self, *words: Any, **keywords: Any) -> Any:
            asked.append(keywords)
            return self

    padding_free.sent(torch.zeros(2).as_subclass(Pinned), torch.device("cuda"))
    assert asked == [{"pinned": True}, {"non_blocking": True}]
