"""trainer.torch_compile: the layers are compiled once for all of them and for every length, and the losses stay."""

from pathlib import Path

import pytest
import torch

from alpaca import compiling
from alpaca.launch import launch
from tests import processes as runs
from tests.commands import compose
from tests.test_fast import make

SETTINGS = [
    *runs.LLAMA,
    "data.validation=null",
    "launch.processes=1",
    "rehearse_save=false",
    "trainer.save_strategy=no",
    "trainer.max_steps=3",
]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gemma3 with images", "Gemma3DecoderLayer"), ("opt", "OPTDecoderLayer"), ("mixtral", "MixtralDecoderLayer")],
)
def test_the_layers_that_are_compiled_are_those_that_read_text(name: str, kind: str) -> None:
    assert [type(layer).__name__ for layer in compiling.layers(make(name))] == [kind] * 2


@pytest.mark.parametrize("fast", ["true", "false"])
def test_compiled_layers_take_the_steps_of_plain_ones(fast: str, tmp_path: Path) -> None:
    """Without a C++ compiler at work: what is recorded and how often is what could be wrong."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    words = [*SETTINGS, f"training.fast={fast}", f"data.cache={tmp_path / 'cache'}"]
    for name, more in (("plain", []), ("compiled", ["trainer.torch_compile_backend=aot_eager"])):
        launch(compose(*words, *more), tmp_path / name)
    counted = torch._dynamo.utils.counters
    assert 0 < counted["stats"]["unique_graphs"] <= 4  # before and after attention, for all layers and lengths
    assert runs.differ(tmp_path / "compiled", tmp_path / "plain") < 1e-5
