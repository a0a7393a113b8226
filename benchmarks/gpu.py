"""python benchmarks/gpu.py: training steps of real sizes on one GPU, with random weights and nothing downloaded.

Batches have the lengths of Alpaca's rows. Each case takes the fast way and the plain padded one on the same rows: real
tokens a second, share of the card's own measured matrix-product rate (operations of the model on real tokens, the
output layer only at labels), peak memory beside the planner's estimate, and the difference of the loss. What does not
fit, is not installed or would go past --minutes is said and left out. `--shrink` runs every case tiny, on any device.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import record  # noqa: E402

QUANTILES = """51,44 56,49 59,52 61,55 64,44 66,55 68,43 70,65 71,51 73,47 75,71 76,70 78,44 79,46 80,48 82,59 83,79 84,44
86,76 87,69 88,55 90,79 92,76 93,88 95,73 97,48 98,86 100,48 102,50 105,56 107,43 109,74 112,74 114,47 117,80 119,83
122,45 125,66 127,66 130,91 133,74 136,69 138,44 141,46 144,44 147,107 150,52 153,53 157,71 160,48 164,76 168,49 172,115
177,67 182,67 187,47 194,47 201,47 210,73 221,153 235,73 258,47 297,78 383,221"""
"""Tokens of a row, and of its prompt: every 64th part of alpaca_data.json by length, LLaMA tokenizer."""
LENGTHS = [tuple(int(n) for n in pair.split(",")) for pair in QUANTILES.split()]
EACH, MAKING = 40.0, 1.0
"""Seconds for the steps of a case, both ways together; assumed for making 10^9 parameters."""
ALPACA_TOKENS = 3 * 52_002 * 126.92


@dataclass(frozen=True)
class Case:
    """`weights`: dtype of the base in memory; `overrides`: the same run for the planner."""

    name: str
    model: str
    method: str
    weights: str
    micro: int
    checkpointing: bool = False

    @property
    def billions(self) -> float:
        """Parameters of the model, in 10^9."""
        return {"llama7b": 6.74, "opt6.7b": 6.66, "llama13b": 13.02, "llama65b": 65.29}[self.model]


CASES = [
    Case("LLaMA-7B LoRA", "llama7b", "lora", "bfloat16", 16),
    Case("LLaMA-7B full, bf16 weights", "llama7b", "full", "bfloat16", 16),
    Case("LLaMA-7B QLoRA", "llama7b", "qlora", "bfloat16", 16, True),
    Case("OPT-6.7B LoRA", "opt6.7b", "lora", "bfloat16", 16),
    Case("LLaMA-7B full, fp32 master weights", "llama7b", "full", "float32", 8),
    Case("LLaMA-13B QLoRA", "llama13b", "qlora", "bfloat16", 16, True),
    Case("LLaMA-65B QLoRA", "llama65b", "qlora", "bfloat16", 8, True),
]
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "llama": {"num_key_value_heads": 4, "intermediate_size": 128},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
}


def settings(case: Case, shrink: bool) -> Any:
    """The typed config of a case, from conf/ and without Hydra, which a GPU machine may lack."""
    import yaml

    from alpaca.config import load

    def conf(name: str) -> Any:
        return yaml.safe_load((ROOT / "conf" / f"{name}.yaml").read_text())

    model, method = conf(f"model/{case.model}"), conf(f"method/{case.method}")
    model["path"] = None
    if shrink:
        family = "llama" if case.model.startswith("llama") else "opt"
        model["architecture"] |= {k: v for k, v in TINY.items() if not isinstance(v, dict)} | TINY[family]  # type: ignore[operator]
    return load(
        {
            "model": model,
            "method": method["method"],
            "strategy": {"name": "single"},
            "data": conf("data/alpaca52k"),
            "prompt": conf("prompt/alpaca"),
            "tracker": {"name": "none"},
            "batch": {"global_size": case.micro, "per_device": case.micro},
            "launch": {"processes": 1},
            "plan": {"gpu": "h200", "reserve_gb": 0},
            "trainer": {"optim": "adamw_torch", "gradient_checkpointing": case.checkpointing},
            "precision": "bf16",
            "dry_run": True,
        }
    )


def build(case: Case, config: Any, device: Any) -> Any:
    """The model with random weights on the device, its linear layers quantised one at a time where the method says so."""
    import torch
    from transformers import AutoModelForCausalLM

    from alpaca import method
    from alpaca import model as base_model

    architecture = base_model.from_yaml(config.model.architecture)
    dtype = getattr(torch, case.weights)
    quantise = config.method.quantize is not None
    with torch.device("meta" if quantise else device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = AutoModelForCausalLM.from_config(architecture, dtype=dtype)
        finally:
            torch.set_default_dtype(before)
    if quantise:
        fill_quantised(model, config, device)
    if case.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    plain = config.method.__class__(config.method.name, config.method.train, config.method.lora)
    return method.apply(model, plain).train()


def fill_quantised(model: Any, config: Any, device: Any) -> None:
    """Linear layers of a model without storage become 4-bit ones of random values; everything else is made as it is."""
    import bitsandbytes as bnb
    import torch
    from torch import nn

    head = model.get_output_embeddings()
    kind = config.method.quantize
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, nn.Linear) or layer is head:
                continue
            new = bnb.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=layer.bias is not None,
                compute_dtype=torch.bfloat16,
                compress_statistics=kind.double,
                quant_type=kind.type,
                device="meta",
            )
            values = torch.randn(layer.out_features, layer.in_features, dtype=torch.bfloat16, device=device) * 0.02
            new.weight = bnb.nn.Params4bit(
                values, requires_grad=False, compress_statistics=kind.double, quant_type=kind.type, module=new
            ).to(device)
            if layer.bias is not None:
                new.bias = nn.Parameter(torch.zeros(layer.out_features, dtype=torch.bfloat16, device=device))
            setattr(parent, name, new.requires_grad_(False))
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if value.is_meta:
                filled = torch.ones if value.dim() == 1 else torch.randn
                made = filled(value.shape, dtype=value.dtype, device=device) * (1.0 if value.dim() == 1 else 0.02)
                setattr(module, name, nn.Parameter(made, requires_grad=False))
        if hasattr(module, "inv_freq"):  # the rotary table is computed, not loaded
            fresh = type(module)(module.config)
            for name, value in fresh.named_buffers(recurse=False):
                setattr(module, name, value.to(device))
    model.tie_weights()


def batches(micro: int, vocabulary: int, count: int, device: Any) -> list[dict[str, Any]]:
    """Flat micro-batches whose rows are as long as Alpaca's."""
    import numpy as np
    import torch

    from alpaca.data import FlatCollator

    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        rows = []
        for number in rng.permutation(len(LENGTHS))[:micro]:
            length, prompt = LENGTHS[number]
            ids = rng.integers(3, vocabulary, length).astype(np.int32)
            labels = ids.astype(np.int64)
            labels[:prompt] = -100
            rows.append({"input_ids": ids, "labels": labels, "row": int(number)})
        batch = FlatCollator(0)(rows)
        found.append({k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()})
    return found


def operations(case: Case, config: Any, model: Any, batch: dict[str, Any]) -> float:
    """Floating-point operations that a step needs: 2 a weight and token forward, 2 backward, 2 for a weight's gradient.

    The output layer counts labels only, attention each sequence's own square, the look-up and recomputation nothing.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    shape = config.model.architecture
    head = base.get_output_embeddings().weight.numel()
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    wide = shape.get("intermediate_size") or shape["ffn_dim"]
    linear = layers * (4 * hidden * hidden + (3 if "intermediate_size" in shape else 2) * hidden * wide)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) if case.method != "full" else 0
    factor = 6 if case.method == "full" else 4
    tokens, labels = batch["input_ids"].numel(), len(batch["targets"])
    scores = 3 * 2 * layers * hidden * sum(n * n for n in batch["lengths"])  # causal: half of each square
    return factor * (linear * tokens + head * labels) + 6 * trained * tokens + scores


def matrix_rate(device: Any, shrink: bool) -> float:
    """Operations a second of a large bf16 matrix product on this device."""
    import torch

    size = 256 if shrink else 8192
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = timed(lambda: a @ b, device, 3 if shrink else 30)
    return 2 * size**3 / seconds


def timed(work: Callable[[], Any], device: Any, count: int, seconds: float = 1e9) -> float:
    """Seconds of one call, after two that warm up: the mean of `count`, or of as many as go into `seconds`."""
    import torch

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = wait()
    work()
    middle = wait()
    work()
    end = wait()
    one = end - middle
    count = max(1, min(count, int((seconds - (end - start)) / max(one, 1e-9))))
    start = wait()
    for _ in range(count):
        work()
    return (wait() - start) / count


def checked(model: Any, batch: dict[str, Any], autocast: Any) -> Any:
    """The quick way for this model, after the check that a training run makes before its first step."""
    from alpaca import forward_check
    from alpaca.forward import Forward

    forward = Forward(model, max(n for n, _ in LENGTHS))
    flipped = batch | {"input_ids": batch["input_ids"].clone()}
    first = batch["lengths"][0]
    flipped["input_ids"][0, :first] = flipped["input_ids"][0, :first].flip(0)
    forward_check.choose(forward, model, [batch, flipped], autocast, lambda yes: yes)
    return forward


def measure(case: Case, arguments: argparse.Namespace, device: Any, rate: float, budget: float) -> list[list[str]]:
    """The rows of a case: fast, then plain. `budget`: seconds for the steps of both."""
    import contextlib

    import torch

    from alpaca.forward import padded, plain_loss

    config = settings(case, arguments.shrink)
    model = build(case, config, device)
    micro = 2 if arguments.shrink else case.micro
    data = batches(micro, config.model.architecture["vocab_size"], 4, device)
    one = torch.ones((), device=device)

    def autocast() -> Any:
        return (
            torch.autocast(device.type, torch.bfloat16)
            if case.weights == "float32" or case.method != "full"
            else (contextlib.nullcontext())
        )

    forward = checked(model, data[0], autocast)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=device.type == "cuda")
    needed = sum(operations(case, config, model, b) for b in data) / len(data)
    tokens = sum(b["input_ids"].numel() for b in data) / len(data)
    lines, losses = [], []
    for name in ("fast", "plain"):
        number = 0

        def loss(batch: dict[str, Any], name: str = name) -> torch.Tensor:
            divisor = one * len(batch["targets"])
            with autocast():
                if name == "fast":
                    return forward(model, batch, divisor).total
                return plain_loss(model, padded(batch), divisor).total

        def step() -> None:
            nonlocal number
            batch = data[number % len(data)]
            number += 1
            with forward.drawing(batch) if name == "fast" else contextlib.nullcontext():  # noqa: B023
                loss(batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        model.eval()
        with torch.no_grad():
            losses.append(float(loss(data[0])))
        model.train()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds = timed(step, device, 2 if arguments.shrink else 8, budget / 2)
        except torch.cuda.OutOfMemoryError:
            optimizer.zero_grad(set_to_none=True)
            lines.append([case.name, name, "out of memory", *["–"] * 5])
            continue
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if device.type == "cuda" else "–"
        share = f"{needed / seconds / rate:.0%}"
        hours = f"{ALPACA_TOKENS / (tokens / seconds) / 3600:.2f}"
        expected = planned(case, config, data, fast=name == "fast")
        lines.append([case.name, name, f"{tokens / seconds:,.0f}", share, peak, expected, hours, ""])
    for line in lines:
        line[7] = f"{abs(losses[0] - losses[1]) / losses[1]:.1e}"
    return lines


def planned(case: Case, config: Any, data: list[dict[str, Any]], fast: bool) -> str:
    """GiB that the planner says for this config and these batches, in the fast way or in the plain one."""
    import dataclasses

    from alpaca import model as base_model
    from alpaca import planning
    from alpaca.config import TrainingConfig
    from alpaca.plan_report import Planner

    if case.method == "full" and case.weights != "float32":
        return "–"  # train.py keeps what it trains in fp32
    config = dataclasses.replace(config, training=TrainingConfig(fast=fast))
    longest = max(max(batch["lengths"]) for batch in data)
    tokens = [sum(b["lengths"]) if fast else max(b["lengths"]) * len(b["lengths"]) for b in data]
    rows = len(data[0]["lengths"])
    with_loss = max(len(batch["targets"]) for batch in data) / rows * longest * rows / max(tokens)
    mean = sum(tokens) / len(data) / rows
    found = planning.Rows(52_002, longest, round(with_loss), mean, True, max(tokens) / (rows * longest))
    needed = Planner(base_model.from_yaml(config.model.architecture), lambda c: found, 3.0).memory(config)
    return f"{needed.peak / 2**30:.1f}"


def missing(case: Case, device: Any, arguments: argparse.Namespace, left: float) -> str:
    """Why a case cannot be tried here, or nothing. `left`: seconds until --minutes are over."""
    from importlib.util import find_spec

    needs = {"full": (), "lora": ("peft",), "qlora": ("peft", "bitsandbytes")}[case.method]
    if absent := [name for name in needs if find_spec(name) is None]:
        return f"{' and '.join(absent)} not installed"
    if device.type == "cuda" and not arguments.shrink:
        import torch

        room = torch.cuda.get_device_properties(device).total_memory
        bytes_each = {"full": 16 if case.weights == "float32" else 8, "lora": 2.1, "qlora": 0.65}[case.method]
        if case.billions * 1e9 * bytes_each > 0.95 * room:
            least = case.billions * 1e9 * bytes_each / 2**30
            return f"needs {least:.0f} GiB for weights, gradients and optimiser state alone"
    making = 0.0 if arguments.shrink else MAKING * case.billions
    if left < making:
        return f"--minutes {arguments.minutes:g} are over"
    return ""


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--shrink", action="store_true", help="tiny models, to see that everything runs")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the cases to run")
    record.option(parser)
    arguments = parser.parse_args(words)
    import torch

    if not torch.cuda.is_available() and not arguments.shrink:
        sys.exit("there is no CUDA device: --shrink runs every case tiny on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started, lines, left = time.monotonic(), [], []
    rate = matrix_rate(device, arguments.shrink)
    for case in CASES:
        if arguments.only and not any(part in case.name for part in arguments.only):
            continue
        seconds = 60 * arguments.minutes - (time.monotonic() - started)
        reason = missing(case, device, arguments, seconds)
        if not reason:
            try:
                budget = min(EACH, seconds - MAKING * case.billions) if not arguments.shrink else EACH
                lines += measure(case, arguments, device, rate, budget)
            except torch.cuda.OutOfMemoryError:
                reason = "out of memory"
            except Exception as error:  # of a version that was not tried: the other cases are worth having
                reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
                if arguments.shrink:
                    raise
        if reason:
            left.append(f"{case.name} was left out: {reason}.")
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    columns = ["case", "way", "real tokens/s", "of the matrix rate", "peak GiB", "planned GiB"]
    columns += ["hours for 3 epochs of Alpaca", "loss differs by"]
    about = f"A large bf16 matrix product runs at {rate / 1e12:.1f} TFLOP/s here."
    body = "\n\n".join([about, record.table(columns, lines), *left])
    title = "One GPU, random weights" + (" (shrunk: no measurement)" if arguments.shrink else "")
    target = "none" if arguments.shrink else arguments.record
    record.section(title, body, target, ("torch", "transformers", "peft", "bitsandbytes"))


if __name__ == "__main__":
    main()
