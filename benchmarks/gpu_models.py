"""Models of real sizes with random weights on one GPU, batches as long as Alpaca's rows, and what a step of them must do."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

QUANTILES = """51,44 56,49 59,52 61,55 64,44 66,55 68,43 70,65 71,51 73,47 75,71 76,70 78,44 79,46 80,48 82,59 83,79 84,44
86,76 87,69 88,55 90,79 92,76 93,88 95,73 97,48 98,86 100,48 102,50 105,56 107,43 109,74 112,74 114,47 117,80 119,83
122,45 125,66 127,66 130,91 133,74 136,69 138,44 141,46 144,44 147,107 150,52 153,53 157,71 160,48 164,76 168,49 172,115
177,67 182,67 187,47 194,47 201,47 210,73 221,153 235,73 258,47 297,78 383,221"""
"""Tokens of a row, and of its prompt: every 64th part of alpaca_data.json by length, LLaMA tokenizer."""
LENGTHS = [tuple(int(n) for n in pair.split(",")) for pair in QUANTILES.split()]
MEAN_TOKENS = 126.92
"""Of a row of alpaca_data.json, LLaMA tokenizer."""
GLOBAL = 128
"""Rows of an optimiser step, as Stanford Alpaca's recipe has it."""


@dataclass(frozen=True)
class Case:
    """`weights`: dtype of the base in memory; `micro`: rows of a micro-batch, halved while a way does not fit."""

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
            "batch": {"global_size": GLOBAL, "per_device": case.micro},
            "launch": {"processes": 1},
            "plan": {"gpu": "h200", "reserve_gb": 0},
            "trainer": {"optim": "adamw_torch", "gradient_checkpointing": case.checkpointing},
            "precision": "bf16",
            "dry_run": True,
        }
    )


def build(case: Case, config: Any, device: Any) -> Any:
    """The model with random weights and its method; linear layers quantised one at a time where the method says so."""
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
        model.is_loaded_in_4bit = model.is_quantized = True  # what from_pretrained says of such a model
    model = method.apply(model, config.method)
    if case.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model.train()


def optimizer_of(case: Case, model: Any, device: Any) -> Any:
    """AdamW as train.py takes it for the method: one kernel, or paged by bitsandbytes. It moves nothing (lr=0), so that
    hidden states of one way can be compared with those of another."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    if case.method == "qlora" and device.type == "cuda":
        import bitsandbytes as bnb

        return bnb.optim.AdamW(trained, lr=0.0, optim_bits=32, is_paged=True)
    return torch.optim.AdamW(trained, lr=0.0, fused=True)


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
