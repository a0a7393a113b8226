"""What a GPU's kernels are given, tried with stand-ins that compute the same on a CPU; and what is refused."""

import sys
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch

from alpaca import forward_check, liger, padding_free, plan_report, varlen
from alpaca import model as base_model
from alpaca.errors import UserError
from alpaca.forward import Forward
from tests.commands import compose
from tests.test_fast import COLLATE, LONGEST, ROWS, Way, assert_equal_steps, choose, make


def reference(query: Any, key: Any, value: Any, ends: Any, scale: float | None, shares: bool) -> torch.Tensor:
    """Causal attention within each sequence, as a FlashAttention kernel lays it out."""
    assert ends.dtype == torch.int32 and query.is_contiguous()
    cuts = ends.tolist()
    parts = []
    for start, end in zip(cuts, cuts[1:], strict=False):
        q, k, v = (x[start:end].transpose(0, 1) for x in (query, key, value))
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scale, enable_gqa=shares
            ).transpose(0, 1)
        )
    return torch.cat(parts)


def torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):  # type: ignore[no-untyped-def]
    assert is_causal and max_q == max_k
    return reference(query, key, value, cu_seq_q, None, False)


def torch_2_13(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):  # type: ignore[no-untyped-def]
    assert window_size == (-1, 0)
    return reference(query, key, value, cu_seq_q, scale, False)


def flash_attn(q, k, v, cu_seqlens_q, cu_seqlens_k, max_q, max_k, softmax_scale=None, causal=False):  # type: ignore[no-untyped-def]
    assert causal
    return reference(q, k, v, cu_seqlens_q, softmax_scale, True)


KERNELS = {
    "torch 2.10": varlen.of_torch(torch_2_10),
    "torch 2.13": varlen.of_torch(torch_2_13),
    "flash-attn": varlen.of_flash_attn(flash_attn),
}


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_given_what_it_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def kernel(*words: Any) -> torch.Tensor:
        calls.append(words)
        return KERNELS[name](*words)

    monkeypatch.setattr(varlen, "find", lambda query, dropout: (kernel, torch.float32))
    for family in ("llama tied", "gpt2"):  # heads that share keys; a scale of its own
        model = make(family)
        forward = choose(model)
        assert forward.way == Way("sequences", "chunked")
        assert_equal_steps(model, forward)
    assert calls


def test_a_wrong_kernel_gives_way_to_one_sequence_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(query: Any, *words: Any) -> torch.Tensor:
        return query / 0

    monkeypatch.setattr(varlen, "_has_flash", lambda device: True)
    monkeypatch.setattr(varlen, "installed", lambda: wrong)
    monkeypatch.setattr(varlen, "_off", False)
    model = make("llama").bfloat16()
    forward = choose(model)
    assert forward.way == Way("sequences", "chunked") and varlen._off


def test_autocast_s_format_counts_and_not_the_query_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_has_flash", lambda device: True)
    monkeypatch.setattr(varlen, "installed", lambda: KERNELS["torch 2.13"])
    monkeypatch.setattr(varlen, "_off", False)
    query = torch.zeros(1, 2, 5, 8)
    assert varlen.find(query, 0.0) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert varlen.find(query, 0.0) == (KERNELS["torch 2.13"], torch.bfloat16)
        assert varlen.find(query, 0.1) is None and varlen.find(torch.zeros(1, 2, 5, 512), 0.0) is None
        mask = padding_free.sequence_mask([2, 3], torch.device("cpu"))
        module = torch.nn.Module()
        out, _ = padding_free.attention(module, query, query, query, mask, scaling=1.0)
    assert out.shape == (1, 5, 2, 8) and out.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["strategy=fsdp", "trainer.optim=paged_adamw_8bit"], "cannot be with strategy=fsdp: bitsandbytes"),
        (["strategy=deepspeed", "trainer.optim=adamw_8bit"], "cannot be with strategy=deepspeed: bitsandbytes"),
    ],
)
def test_optimisers_that_cannot_be_cut(words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        compose(*words)


def liger_kernel(monkeypatch: pytest.MonkeyPatch, wrong: bool) -> list[dict[str, Any]]:
    """A stand-in for the package, whose kernels are the model's own or wrong ones."""
    calls: list[dict[str, Any]] = []

    def exchange(model: Any, **options: Any) -> None:
        calls.append(options)
        if wrong:
            model.model.norm.forward = lambda hidden: hidden

    package, patches = ModuleType("liger_kernel.transformers"), ModuleType("liger_kernel.transformers.monkey_patch")
    package._apply_liger_kernel_to_instance = exchange  # type: ignore[attr-defined]
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": exchange}  # type: ignore[attr-defined]
    for module in (ModuleType("liger_kernel"), package, patches):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def choose_with_liger(model: Any) -> None:
    examples = forward_check.check_examples(ROWS, COLLATE)
    forward = Forward(model, LONGEST)
    forward_check.choose(forward, model, examples, nullcontext, lambda yes: yes, kernels=liger.apply)


def test_liger_s_kernels_are_compared_and_its_losses_left_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    calls = liger_kernel(monkeypatch, wrong=False)
    choose_with_liger(make("llama"))
    assert calls == [{"cross_entropy": False, "fused_linear_cross_entropy": False}]
    choose_with_liger(make("opt"))
    said = capfd.readouterr().err
    assert "same losses as without them" in said and "liger-kernel knows no opt" in said and len(calls) == 1
    liger_kernel(monkeypatch, wrong=True)
    with pytest.raises(UserError, match=r"change this model's losses .*training.liger=false"):
        choose_with_liger(make("llama"))


def test_liger_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(UserError, match="needs a CUDA device"):
        liger.wanted(compose("training.liger=true"), cuda=False)
    with pytest.raises(UserError, match="pip install -r requirements-gpu.txt"):
        liger.wanted(compose("training.liger=true"), cuda=True)
    assert not liger.wanted(compose(), cuda=True) and not liger.wanted(compose(), cuda=False)


def test_liger_s_kernels_stay_out_of_compiled_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liger, "find_spec", lambda name: object())
    assert liger.wanted(compose(), cuda=True)
    assert not liger.wanted(compose("trainer.torch_compile=true"), cuda=True)


@pytest.mark.parametrize(("gpu", "expected"), [("h100", False), ("t4", True), (None, False)])
def test_checkpointing_only_where_the_plan_needs_it(gpu: str | None, expected: bool) -> None:
    words = ["model=llama7b", "method=lora", "dry_run=true", "trainer.gradient_checkpointing=auto", "precision=fp16"]
    words += ["launch.processes=1", "model.path=null", *([f"plan.gpu={gpu}"] if gpu else [])]
    config = compose(*words)
    architecture = base_model.from_yaml(config.model.architecture)
    decided = plan_report.decide_checkpointing(config, architecture, None, 52_002)
    assert decided.trainer["gradient_checkpointing"] is expected
