"""trainer.torch_compile: the model's layers are compiled, what is around them is not.

A graph of the whole model would be compiled anew at every step: its output layer takes the loss in place of logits, and
a batch without padding is known by its lengths, which are numbers of Python. One layer's graph serves all of its kind,
for any number of tokens; attention within sequences stays outside of it. Knows no trainer.
"""

from dataclasses import dataclass
from typing import Any

from alpaca import console


@dataclass(frozen=True)
class Compiler:
    """What trainer.torch_compile_backend and torch_compile_mode say."""

    backend: str = "inductor"
    mode: str | None = None


def take(settings: dict[str, Any]) -> Compiler | None:
    """Take the settings of the compiler out of TrainingArguments' fields, which would have the whole model compiled."""
    asked, backend, mode = (settings.pop(f"torch_compile{key}", None) for key in ("", "_backend", "_mode"))
    return Compiler(backend or "inductor", mode) if asked or backend or mode else None


def layers(model: Any) -> list[Any]:
    """The layers that a model is a stack of: the outermost list of modules of what reads text in it."""
    from torch import nn

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = base.get_decoder() if hasattr(base, "get_decoder") else base
    return next((list(m) for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m)), [])


def compile_layers(model: Any, compiler: Compiler) -> None:
    """Compile each layer in place at its first call; parameters keep their names."""
    import torch
    from transformers import AttentionInterface

    from alpaca import padding_free

    found = layers(model)
    if not found:
        console.warn(f"trainer.torch_compile does nothing: {type(model).__name__} is no stack of layers")
        return
    AttentionInterface.register(padding_free.ATTENTION, torch.compiler.disable(padding_free.attention))
    for layer in found:
        layer.compile(backend=compiler.backend, mode=compiler.mode, dynamic=True)
    console.say(f"{len(found)} layers are compiled by {compiler.backend} when they are first used")
