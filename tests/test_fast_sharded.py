"""Under each strategy, on two processes: a run without padding takes the steps of plain padded batches in one process."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alpaca.launch import launch
from tests import processes as runs
from tests import shared_workers
from tests.commands import compose

MORE = [
    "trainer.num_train_epochs=1",
    "trainer.save_strategy=no",
    "trainer.optim=sgd",
    "trainer.warmup_steps=0",
    "trainer.gradient_checkpointing=true",
    "rehearse_save=false",
    "data.validation=null",
    "data.limit=28",
    "trainer.learning_rate=0.1",
]
"""Plain gradient descent: what it adds to the weights is the gradients. 28 rows end in a step of two micro-batches."""
CASES = {
    "ddp": [*runs.OPT, "method=lora", "method.lora.dropout=0", "model.architecture.dropout=0"],
    "fsdp": [*runs.LLAMA, "method=full_fsdp"],
    "deepspeed": [*runs.LLAMA, "method=full_deepspeed"],
}
"""DeepSpeed last: it leaves things behind that another engine takes for its own."""


def learned(folder: Path, adapter: bool) -> torch.Tensor:
    """What the run added to its weights, in a row; of an adapter the whole, whose first factor starts alike."""
    trained = load_file(folder / "model" / ("adapter_model.safetensors" if adapter else "model.safetensors"))
    before = {} if adapter else load_file(folder / "base" / "model.safetensors")
    return torch.cat([(v - before.get(k, 0)).flatten().double() for k, v in sorted(trained.items())])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of each strategy is, two processes for all of them."""
    folder = tmp_path_factory.mktemp("fast")
    more = [*MORE, f"data.cache={folder / 'cache'}", "launch.processes=2", "training.fast=true"]
    shared_workers.train(folder, {name: [*words, *more] for name, words in CASES.items()})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("strategy", CASES)
def test_the_steps_of_plain_batches(strategy: str, scratch: Path) -> None:
    words = [*CASES[strategy], *MORE, f"data.cache={scratch / 'cache'}"]
    fast, plain = scratch / strategy, scratch / ("adapters" if strategy == "ddp" else "full")
    if not plain.exists():
        launch(compose(*words, "launch.processes=1", "strategy=single", "training.fast=false"), plain)
    pairs = list(zip(runs.metrics(fast), runs.metrics(plain), strict=True))
    assert len(pairs) == 4
    for ours, theirs in pairs:
        assert ours["tokens"] == theirs["tokens"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
    ours, theirs = (learned(folder, strategy == "ddp") for folder in (fast, plain))
    assert theirs.norm() > 1e-3
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["init", "stopped"])
def test_a_process_that_alone_cannot_look_ends_the_run(fault: str, tmp_path: Path) -> None:
    """The other one stands in a collective of the model's and waits for it, where no signal is looked at."""
    with pytest.raises(AssertionError, match="process 1 alone cannot check .*: nothing that another process has. Mend"):
        runs.together(2, "-m", "tests.lonely_worker", str(tmp_path), fault, seconds=120)
