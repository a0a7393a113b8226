"""Attention, checkpointing and compilation that this machine or a family cannot do are refused before anything is read."""

import pytest
from transformers import AutoConfig

from alpaca import support
from alpaca.errors import UserError
from tests.commands import compose


@pytest.mark.parametrize(
    ("words", "family", "expected"),
    [
        (["model.attention=flash_attention_2"], "llama", "trains on CUDA devices only: use model.attention=sdpa"),
        (["model.attention=sdpa"], "rwkv", "not there for Rwkv"),
        (["model.attention=flex_attention"], "llama", "trains on CUDA devices only"),
        (["trainer.gradient_checkpointing=true"], "ctrl", "cannot be with CTRL"),
        (["trainer.torch_compile=true"], "llama", "needs a C\\+\\+ compiler"),
    ],
)
def test_what_cannot_be_is_refused(
    words: list[str], family: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=expected):
        support.check(compose(*words, "trainer.use_cpu=true"), AutoConfig.for_model(family), "fp32")


def test_what_can_be_is_not() -> None:
    for words in (["model.attention=sdpa"], ["model.attention=eager"], ["trainer.gradient_checkpointing=true"]):
        support.check(compose(*words), None, "fp32")
        support.check(compose(*words), AutoConfig.for_model("opt"), "fp32")
    support.check(compose("trainer.gradient_checkpointing=auto"), AutoConfig.for_model("ctrl"), "fp32")
