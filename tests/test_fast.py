"""Batches without padding and loss at labels only: the same losses and gradients as plain padded batches, for less work."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from alpaca import chunked_loss, dropout, forward_check, method, padding_free
from alpaca.config import LoraConfig, MethodConfig, QuantizeConfig
from alpaca.data import FlatCollator
from alpaca.errors import UserError
from alpaca.forward import Forward, Way, padded, plain_loss, router_loss
from alpaca.launch import launch
from tests.commands import compose

VOCABULARY, LONGEST = 320, 40
COLLATE = FlatCollator(0)


def example(length: int, prompt: int, seed: int) -> dict[str, Any]:
    ids = np.random.default_rng(seed).integers(3, VOCABULARY, length).astype(np.int32)
    labels = ids.astype(np.int64)
    labels[:prompt] = -100
    return {"input_ids": ids, "labels": labels, "row": seed}


ROWS = [example(12, 5, 1), example(30, 10, 2), example(25, 24, 3), example(LONGEST, 0, 4), example(7, 7, 5)]
ACCUMULATED = [ROWS[:2], ROWS[2:4], ROWS[4:]]
"""Micro-batches of one optimiser step; the last has no label at all."""
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MLP = {"intermediate_size": 64, "max_position_embeddings": 64}


def configs() -> dict[str, transformers.PretrainedConfig]:
    t = transformers
    gpt2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    gpt2 |= {"bos_token_id": 1, "eos_token_id": 2}
    images = {"hidden_size": 16, "num_attention_heads": 2}
    opt = SIZES | {"ffn_dim": 64, "max_position_embeddings": 64}
    return {
        "llama": t.LlamaConfig(**SIZES, **MLP),
        "llama tied": t.LlamaConfig(**SIZES, **MLP, tie_word_embeddings=True, num_key_value_heads=2),
        "opt": t.OPTConfig(**opt, word_embed_proj_dim=32, dropout=0.1),
        "opt projected": t.OPTConfig(**opt, word_embed_proj_dim=16, dropout=0.0),
        "qwen2": t.Qwen2Config(**SIZES, **MLP, num_key_value_heads=2),
        "gpt2": t.GPT2Config(**gpt2, attn_pdrop=0.0),
        "gpt_neox": t.GPTNeoXConfig(**SIZES, **MLP),
        "mistral window": t.MistralConfig(**SIZES, **MLP, num_key_value_heads=2, sliding_window=16),
        "gemma3 with images": t.Gemma3Config(
            text_config=SIZES | MLP | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
            vision_config=images
            | {"intermediate_size": 16, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
            image_token_index=1,
        ),
        "doge": t.DogeConfig(**SIZES, **MLP, num_key_value_heads=2, keep_window_size=30),
        "gemma2 soft cap": t.Gemma2Config(
            **SIZES,
            **MLP,
            num_key_value_heads=2,
            head_dim=8,
            final_logit_softcapping=0.3,
            attn_logit_softcapping=0.01,
        ),
        "granite scale": t.GraniteConfig(**SIZES, **MLP, logits_scaling=4.0),
        "cohere scale": t.CohereConfig(**SIZES, **MLP),
        "gpt_oss sinks": t.GptOssConfig(
            **SIZES, **MLP, num_key_value_heads=2, head_dim=8, num_local_experts=4, sliding_window=16
        ),
        "gpt2 attention dropout": t.GPT2Config(**gpt2, attn_pdrop=0.1),
        "mixtral": t.MixtralConfig(**SIZES, **MLP, num_key_value_heads=2, num_local_experts=4, sliding_window=None),
        "lfm2": t.Lfm2Config(**SIZES, **MLP, num_key_value_heads=2, layer_types=["conv", "full_attention"]),
        "xglm": t.XGLMConfig(
            vocab_size=VOCABULARY, d_model=32, num_layers=2, attention_heads=4, ffn_dim=64, max_position_embeddings=64
        ),
        "bloom": t.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
        "gpt_neo": t.GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=16,
            max_position_embeddings=64,
        ),
    }


WAYS = {
    "doge": Way("padded", "chunked"),
    "gpt_neo": Way("packed", "chunked"),
    "bloom": Way("padded", "chunked"),
    "lfm2": Way("padded", "chunked"),
    "xglm": Way("padded", "chunked"),
}
"""Where it is not the quickest."""


def make(name: str) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(configs()[name]).train()


def choose(model: Any, context: Any = contextlib.nullcontext) -> Forward:
    forward = Forward(model, LONGEST)
    rows = forward_check.check_examples(ROWS, COLLATE, padding_free.reach(model, LONGEST))
    tokens = sum(len(example["input_ids"]) for example in ROWS)
    forward_check.choose(forward, model, rows, context, lambda yes: yes, tokens=tokens)
    return forward


def one_step(model: Any, forward: Forward | None, context: Any = contextlib.nullcontext) -> tuple[float, torch.Tensor]:
    """(loss, every gradient in a row) of an accumulated step; without `forward` by plain padded batches."""
    model.zero_grad()
    torch.manual_seed(7)
    batches = [COLLATE(rows) for rows in ACCUMULATED]
    divisor = sum(b["labels"].ne(-100).sum() for b in batches)
    total = 0.0
    for batch in batches:
        with forward.drawing(batch) if forward else contextlib.nullcontext():
            with context():
                found = forward(model, batch, divisor) if forward else plain_loss(model, padded(batch), divisor)
            found.total.backward()
        total += found.total.item()
    return total, torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])


def assert_equal_steps(model: Any, forward: Forward) -> None:
    loss, gradient = one_step(model, forward)
    expected_loss, expected = one_step(model, None)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert len(gradient) == len(expected) and expected.norm() > 0
    assert (gradient - expected).norm() / expected.norm() < 1e-5


def test_the_check_looks_for_rows_that_have_something_to_learn() -> None:
    first, _ = forward_check.check_examples([ROWS[4]] * 100 + ROWS[:2], COLLATE)
    assert first["lengths"] == [12, 30]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", configs())
def test_loss_and_gradients_are_those_of_plain_batches(name: str, checkpointing: bool) -> None:
    model = make(name)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    forward = choose(model)
    assert forward.way == WAYS.get(name, Way("sequences", "chunked"))
    assert_equal_steps(model, forward)


@pytest.mark.parametrize("name", ["llama", "opt"])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_adapters_get_the_same_gradients(name: str, bits: int | None, tmp_path: Path) -> None:
    make(name).save_pretrained(tmp_path)
    quantize = None if bits is None else QuantizeConfig(bits=bits, compute_dtype="float32")  # type: ignore[arg-type]
    lora = LoraConfig(r=4, alpha=8, dropout=0.1, targets="all-linear")
    settings = MethodConfig("lora", "lora", lora, quantize)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=method.quantization(settings, torch.float32)
    )
    model = method.apply(base, settings).train()
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
            parameter.normal_(std=0.05)
    forward = choose(model)
    assert forward.way == Way("sequences", "chunked")
    if bits == 8:  # rounds by the largest value of a whole batch, so padding itself changes it
        (loss, _), (expected, _) = one_step(model, forward), one_step(model, None)
        assert loss == pytest.approx(expected, rel=1e-3)
    else:
        assert_equal_steps(model, forward)


def test_half_precision_is_equal_within_its_rounding() -> None:
    model = make("llama")
    context = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    forward = choose(model, context)
    assert forward.way == Way("sequences", "chunked")
    loss, gradient = one_step(model, forward, context)
    expected_loss, expected = one_step(model, None, context)
    exact_loss, exact = one_step(model, None)
    assert loss == pytest.approx(expected_loss, rel=2e-3)
    assert (gradient - exact).norm() < 1.5 * (expected - exact).norm()


def wrong_attention(kind: str, right: Any) -> Any:
    """`padding_free.attention` with a fault, in sequences end to end only."""

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        if mask is None or mask.dtype != torch.int32:
            return right(module, query, key, value, mask, **options)
        if kind == "none":
            return value.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(1, 2).contiguous(), None
        if kind == "scale":
            options["scaling"] = 0.75 * (options.get("scaling") or query.shape[-1] ** -0.5)
        if kind == "not causal":
            options["is_causal"] = False
        if kind == "window":
            place, which = torch.arange(query.shape[2]), torch.repeat_interleave(*lengths_of(mask))
            seen = (place[:, None] >= place) & (place[:, None] - place < 8) & (which[:, None] == which)
            return right(module, query, key, value, seen.expand(1, 1, -1, -1), **options)
        found, _ = right(module, query, key, value, None if kind == "across sequences" else mask, **options)
        if kind == "last token":
            found[:, -1] = value[:, :, -1].repeat_interleave(query.shape[1] // key.shape[1], 1)
        return found, None

    return attend


def lengths_of(mask: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(mask.numel()), mask.flatten().long()


WRONG = ["none", "scale", "not causal", "window", "across sequences", "last token"]


@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16"])
@pytest.mark.parametrize("name", ["llama tied", "opt", "gpt2"])
def test_a_wrong_attention_is_found_out_however_little_the_model_knows(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = padding_free.attention
    context = (lambda: torch.autocast("cpu", torch.bfloat16)) if precision == "autocast" else contextlib.nullcontext
    model = make(name)
    model = model.bfloat16() if precision == "bf16" else model
    assert choose(model, context).way == Way("sequences", "chunked")
    for kind in WRONG:
        model.set_attn_implementation("sdpa")
        monkeypatch.setattr(padding_free, "attention", wrong_attention(kind, right))
        assert choose(model, context).way.layout != "sequences", kind
        assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["mistral window", "gemma3 with images", "doge"])
def test_a_window_that_is_not_kept_is_found_out(name: str, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the model's config calls it."""
    monkeypatch.setattr(padding_free, "_WINDOWS", ())
    monkeypatch.setattr(padding_free, "_window_mask", lambda query, window: None)
    model = make(name)
    assert padding_free.can_attend(model, LONGEST)
    assert choose(model.bfloat16() if bf16 else model).way == WAYS.get(name, Way("packed", "chunked"))


def test_a_window_must_be_narrower_than_a_row_that_is_tried() -> None:
    model = make("mistral window")
    assert not padding_free.can_attend(model, LONGEST, 16) and padding_free.can_attend(model, LONGEST, 17)


@pytest.mark.parametrize("name", ["sliding_window_size", "local_attention_window_len", "attention_chunk", "local_span"])
def test_a_row_longer_than_a_window_of_any_name_is_tried(name: str) -> None:
    model = make("llama")
    setattr(model.config, name, 19)
    first, _ = forward_check.check_examples(ROWS, COLLATE, padding_free.reach(model, LONGEST))
    assert first["lengths"] == [12, 40]
    assert padding_free.reach(model, 19) == 0


def test_a_router_s_auxiliary_loss_is_taken_as_by_transformers() -> None:
    config = configs()["mixtral"]
    config.update({"output_router_logits": True, "router_aux_loss_coef": 3.0})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    forward = choose(model)
    assert forward.way == Way("packed", "chunked")
    batch = COLLATE(ROWS[:2])
    rows, labels = padded(batch), torch.tensor(float(len(batch["targets"])))
    expected = model(**{name: rows[name] for name in ("input_ids", "attention_mask", "labels")}).loss
    gradients = []
    for found in (forward(model, batch, labels), plain_loss(model, rows, labels)):
        added = router_loss(model, found, labels)
        assert added > 1 and (found.total + added).item() == pytest.approx(expected.item(), rel=1e-6)
        gradients.append(torch.autograd.grad(found.total + added, list(model.parameters())))
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    for ours in gradients:
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(ours, wanted, strict=True))
    with pytest.raises(UserError, match="LlamaForCausalLM names no coefficient"):
        router_loss(make("llama"), found, labels)
    model = make("mixtral")
    assert router_loss(model, plain_loss(model, rows, labels), labels) == 0


@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16", "fp16"])
@pytest.mark.parametrize("scale", [200, 100])
def test_what_a_model_does_beyond_a_place_of_the_whole_row_is_found_out(scale: int, precision: str) -> None:
    """Llama 4 scales its queries from a place on, and counts places over all sequences of a row."""
    experts = {"num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 8192}
    layers = {"no_rope_layers": [1, 0], "floor_scale": scale, "num_key_value_heads": 2, "head_dim": 8}
    config = transformers.Llama4TextConfig(**SIZES | MLP | experts | layers | {"max_position_embeddings": 512})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    if kind := {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision):
        model = model.to(kind)
    context = (lambda: torch.autocast("cpu", torch.bfloat16)) if precision == "autocast" else contextlib.nullcontext
    forward = choose(model, context)
    assert forward.way == (Way("sequences", "chunked") if scale == 200 else Way("padded", "chunked"))
    assert scale == 200 or "behind 114 tokens of the same batch" in forward.reason
    if precision == "fp32":
        assert_equal_steps(model, forward)


@pytest.mark.parametrize("name", ["lfm2", "bloom", "xglm"])
def test_tokens_that_reach_another_sequence_are_found_out_in_16_bits(name: str) -> None:
    """By convolution; by positions that go on; by a mask that was not made for it."""
    assert choose(make(name).bfloat16()).way.layout == "padded"


@pytest.mark.parametrize("name", ["mixtral", "gemma3 with images", "granite scale", "gemma2 soft cap"])
def test_no_false_alarm_in_16_bits(name: str) -> None:
    for model in (make(name).bfloat16(), make(name).half()):
        assert choose(model).way == WAYS.get(name, Way("sequences", "chunked"))


CHANGES = {
    "scale": (lambda x: x * 0.0625, chunked_loss.Change(0.0625)),
    "quotient": (lambda x: x / 13, chunked_loss.Change(1 / 13)),
    "cap": (lambda x: 30 * torch.tanh(x / 30), chunked_loss.Change(1.0, 30.0)),
    "cap of scaled": (lambda x: 15 * torch.tanh(0.5 * x / 15), chunked_loss.Change(0.5, 15.0)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_model_does_to_its_logits_is_found(name: str) -> None:
    made, expected = CHANGES[name]
    found = chunked_loss.Change.of(made(torch.tensor(chunked_loss.PROBES)))
    assert found is not None
    assert (found.slope, found.cap) == (pytest.approx(expected.slope, rel=1e-6), expected.cap)


@pytest.mark.parametrize("made", [lambda x: x.clamp(-30, 30), lambda x: x + 0.01, torch.relu, lambda x: x * 0])
def test_what_chunks_of_logits_cannot_do_goes_the_slower_way(made: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert chunked_loss.Change.of(made(torch.tensor(chunked_loss.PROBES))) is None
    model = make("llama")
    forward = model.forward

    def changed(input_ids: Any = None, logits_to_keep: Any = 0, **inputs: Any) -> Any:
        output = forward(input_ids, logits_to_keep=logits_to_keep, **inputs)
        output.logits = made(output.logits)
        return output

    model.forward = changed
    assert choose(model).way == Way("sequences", "gathered")
    said = capfd.readouterr().err
    assert "logits at labels only" in said and "changes its logits after its output layer" in said


def test_processes_agree_on_one_way() -> None:
    model = make("llama")
    forward = Forward(model, LONGEST)
    examples = forward_check.check_examples(ROWS, COLLATE)
    forward_check.choose(forward, model, examples, contextlib.nullcontext, lambda yes: False, quiet=True)
    assert forward.way == Way("padded", "full")
    assert_equal_steps(model, forward)


def test_a_process_that_cannot_look_at_its_tokens_decides_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, votes = Forward(make("llama"), LONGEST), []
    examples = forward_check.check_examples(ROWS, COLLATE)

    def agreed(yes: bool) -> bool:
        votes.append(yes)
        return yes and len(votes) > 1  # another process could not

    forward_check.choose(forward, forward.base, examples, contextlib.nullcontext, agreed, quiet=True)
    assert forward.way == Way("padded", "chunked") and forward.reason.startswith("another process could not look")

    def full(*_: Any) -> str:
        raise torch.OutOfMemoryError("of this process alone")

    monkeypatch.setattr(forward_check.Check, "fault", full)
    with pytest.raises(torch.OutOfMemoryError):  # the others would wait for what it does not do
        forward_check.choose(forward, forward.base, examples, contextlib.nullcontext, lambda yes: yes)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("change", [None, *CHANGES])
def test_chunked_loss_is_cross_entropy(
    change: str | None, bias: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, known = CHANGES.get(change, (lambda x: x, chunked_loss.Change()))
    monkeypatch.setitem(chunked_loss.CHUNK_BYTES, "cpu", 4 * 50 * chunk)
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=bias)
    with torch.no_grad():
        head.weight *= 30  # shares that underflow
    hidden, targets = torch.randn(17, 16, requires_grad=True), torch.randint(50, (17,))
    inputs = [hidden, *head.parameters()]
    found, losses = chunked_loss.linear_cross_entropy(hidden, head, targets, torch.tensor(3.0), known)
    gradients = torch.autograd.grad(found * 7, inputs)
    expected = functional.cross_entropy(changed(head(hidden)), targets, reduction="none")
    assert torch.allclose(losses, expected, rtol=1e-5, atol=1e-5) and not losses.requires_grad
    for got, wanted in zip(gradients, torch.autograd.grad(expected.sum() / 3 * 7, inputs), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_no_gradient_of_a_frozen_output_layer() -> None:
    head = torch.nn.Linear(16, 50, bias=False).requires_grad_(False)
    hidden = torch.randn(17, 16, requires_grad=True)
    with Work() as work:
        loss, _ = chunked_loss.linear_cross_entropy(hidden, head, torch.randint(50, (17,)), torch.tensor(3.0))
        loss.backward()
    assert hidden.grad is not None and head.weight.grad is None
    assert (50, 16) not in work.shapes


class Work(TorchDispatchMode):
    """The shapes that operations make, and those of matrix products, as long as it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()
        self.products: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                self.shapes.add(tuple(value.shape))
                if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
                    self.products.append(tuple(value.shape))
        return result


@contextlib.contextmanager
def counting(model: Any) -> Iterator[dict[str, int]]:
    """Tokens that enter the model, as long as it is open."""
    counts = {"tokens": 0}

    def note(module: Any, inputs: Any, output: Any) -> None:
        counts["tokens"] += inputs[0].numel()

    hook = model.get_input_embeddings().register_forward_hook(note)
    yield counts
    hook.remove()


@pytest.mark.parametrize("name", ["llama", "gemma2 soft cap"])
def test_the_work_done(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token once, no padding; logits for labels alone, and never more than a chunk of them at once."""
    chunk = 8
    monkeypatch.setitem(chunked_loss.CHUNK_BYTES, "cpu", 4 * VOCABULARY * chunk)
    model = make(name)
    forward = choose(model)
    batch = COLLATE(ROWS)
    with counting(model) as counts, Work() as work:
        forward(model, batch, torch.tensor(1.0)).total.backward()
    assert counts["tokens"] == sum(len(r["input_ids"]) for r in ROWS)
    rows = {shape[0] for shape in work.shapes if shape[1:] == (VOCABULARY,) and shape[0] != 32}
    labels = sum(int((r["labels"][1:] != -100).sum()) for r in ROWS)
    assert len(batch["targets"]) == labels == 67
    assert max(rows) <= chunk
    assert sum(shape[-2] for shape in work.products if shape[-1] == VOCABULARY) == labels
    assert not any(shape[-1:] == (VOCABULARY,) and len(shape) > 2 for shape in work.shapes)
    attention = {shape[-2:] for shape in work.shapes if len(shape) == 4}
    assert not any(s == (counts["tokens"], counts["tokens"]) for s in attention)


def test_eager_attention_gets_padded_batches_where_they_cost_it_less(capfd: pytest.CaptureFixture[str]) -> None:
    model = make("llama")
    model.set_attn_implementation("eager")
    forward = choose(model)
    assert forward.way == Way("packed", "chunked")
    assert "its attention is eager" in capfd.readouterr().err
    for rows, padding in ((ROWS[:2], 0), (ROWS[1:4], 3 * LONGEST - 95)):
        batch = COLLATE(rows)
        with counting(model) as counts:
            forward(model, batch, torch.tensor(1.0))
        assert counts["tokens"] == sum(batch["lengths"]) + padding
    assert_equal_steps(model, forward)


SETTINGS = [
    "model.vocab_size=400",
    "model.architecture.hidden_size=32",
    "model.architecture.num_attention_heads=2",
    "model.architecture.num_key_value_heads=2",
    "model.architecture.num_hidden_layers=2",
    "model.architecture.intermediate_size=64",
    "data.limit=40",
    "data.validation=8",
    "prompt=alpaca_short",
    "batch.global_size=8",
    "batch.per_device=4",
    "trainer.num_train_epochs=1",
    "trainer.save_strategy=no",
    "rehearse_save=false",
    "check_saved=false",
]


ROUTED = [
    "model.architecture.model_type=mixtral",
    "+model.architecture.num_local_experts=4",
    "+model.architecture.output_router_logits=true",
    "+model.architecture.router_aux_loss_coef=3.0",
]


@pytest.mark.parametrize(
    "more", [["loss_average=token", *ROUTED], ["loss_average=microbatch", "method=lora", "loss_on=all"]]
)
def test_a_run_is_the_same_fast_or_plain(more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lines = []
    for fast in ("true", "false"):
        run = tmp_path / fast
        launch(compose(*SETTINGS, *more, f"training.fast={fast}", f"data.cache={tmp_path / 'cache'}"), run)
        lines.append([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])
        assert ("batches without padding, loss at labels only, in chunks" in capsys.readouterr().err) == (
            fast == "true"
        )
    assert len(lines[0]) == len(lines[1]) >= 5
    for ours, plain in zip(*lines, strict=True):
        for key in ours.keys() - {"seconds"}:
            assert ours[key] == pytest.approx(plain[key], rel=1e-5), key
    routed = more[-1] == ROUTED[-1]
    assert all((line["loss"] > 10) == routed for line in lines[0] if "loss" in line)  # evaluation takes no part of it
    written = (tmp_path / "true" / "model").glob("*config.json")
    assert not any(padding_free.ATTENTION in path.read_text() for path in written)


def test_adapters_take_their_input_as_it_is_under_autocast_and_in_fp32_without() -> None:
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    base = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    lora = LoraConfig(r=2, alpha=4, dropout=0.5, targets=["q_proj"])
    model = method.apply(base, MethodConfig("lora", "lora", lora)).train()
    seen: list[torch.dtype] = []
    for name, module in model.named_modules():
        if name.endswith("lora_dropout.default"):
            module.register_forward_hook(lambda _, given, made: seen.append(given[0].dtype))
    ids = torch.arange(8).unsqueeze(0)
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=ids)
    model(input_ids=ids)
    assert seen == [torch.bfloat16, torch.float32]


def test_dora_begins_at_the_base_model_under_autocast() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=256, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    base = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    x = torch.randn(64, 256, dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = base.model.layers[0].self_attn.v_proj(x)
        dora = LoraConfig(r=2, alpha=4, dropout=0.0, targets=["v_proj"], dora=True)
        tuned = method.apply(base, MethodConfig("lora", "lora", dora)).eval()
        assert torch.equal(tuned.get_base_model().model.layers[0].self_attn.v_proj(x), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_of_dropout_scales_value_and_gradient_with_one_rounding(dtype: torch.dtype) -> None:
    x = torch.randn(400, dtype=dtype, requires_grad=True)
    slope, kept = torch.randn(400, dtype=dtype), torch.rand(400) < 0.9
    found = dropout._Masked.apply(x, kept, 1 / 0.95)
    found.backward(slope)
    for value, given in ((found, x), (x.grad, slope)):
        exact = given.double() * kept / 0.95
        torch.testing.assert_close(value, exact.float().to(dtype), rtol=2e-7 if dtype == torch.float32 else 0, atol=0)


def test_tf32_is_found_where_transformers_has_switched_it_on() -> None:
    before = torch.backends.fp32_precision
    try:
        for setting in ("tf32", "ieee"):
            torch.backends.fp32_precision = setting
            assert forward_check.takes_tf32() is (setting == "tf32")
    finally:
        torch.backends.fp32_precision = before
