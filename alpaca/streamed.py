"""A model computed straight from its files: the weights of a module are in memory only while it is at work.

So a model of any size can be compared with another. Knows no training and no formats but `weights.Source`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca import weights
from alpaca.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn


def build(source: weights.Source, adapter: Path | None) -> "Streamed":
    """The model of `source` (without its own adapter) in float32, with `adapter` beside it as PEFT puts it there."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    source.config.vocab_size = source.rows
    with init_empty_weights():  # buffers, such as the angles of RoPE, are real
        model: Any = AutoModelForCausalLM.from_config(source.config)
    stored = _stored_names(model, source)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, _placeholder(parameter))
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    return Streamed(model.eval(), source, stored)


def _placeholder(parameter: Any) -> Any:
    """A parameter of the same shape that takes four bytes."""
    import torch

    return torch.nn.Parameter(torch.zeros(1).expand(parameter.shape), requires_grad=False)


def _stored_names(model: Any, source: weights.Source) -> dict[str, str]:
    """Parameter -> tensor in the files; tied ones share a tensor."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    found: dict[str, str] = {}
    for names in groups.values():
        there = [n for name in names for n in (name, name.removeprefix("model.")) if n in source.files]
        if not there:
            raise UserError(f"{source.base} has no {names[0]}: it cannot be read layer by layer; verify=whole")
        found |= dict.fromkeys(names, there[0])
    return found


class Streamed:
    """A model whose modules fetch their weights when they are called."""

    def __init__(self, model: Any, source: weights.Source, stored: dict[str, str]) -> None:
        self.model, self.config = model, source.config
        self.layers: dict[str, nn.Module] = {}
        """Tensor in the files -> the LoRA layer around it."""
        self._fetch: dict[int, Callable[[], None]] = {}
        self._drop: dict[int, Callable[[], None]] = {}
        for owner, place, names in _owners(model, stored):
            self._attach(owner, place, names, source)
            if owner is not place:
                self.layers |= {tensor: owner for name, tensor in names.items() if name == "weight"}

    def _attach(self, owner: Any, place: Any, names: dict[str, str], source: weights.Source) -> None:
        import torch

        def fetch() -> None:
            for name, tensor in names.items():
                place._parameters[name] = torch.nn.Parameter(source.tensor(tensor, torch.float32), requires_grad=False)

        def drop() -> None:
            for name in names:
                place._parameters[name] = _placeholder(place._parameters[name])

        self._fetch[id(owner)], self._drop[id(owner)] = fetch, drop
        owner.register_forward_pre_hook(lambda *_: fetch())
        owner.register_forward_hook(lambda *_: drop())

    def __call__(self, ids: "torch.Tensor") -> "torch.Tensor":
        """float32 logits [batch, tokens, vocabulary] of token ids [batch, tokens]."""
        import torch

        with torch.inference_mode():
            return self.model(input_ids=ids, use_cache=False).logits.float()

    def merged(self, tensor: str) -> "torch.Tensor":
        """A tensor of the files in float32, with what PEFT itself merges into it. Only for those in `layers`."""
        layer: Any = self.layers[tensor]
        self._fetch[id(layer)]()
        layer.merge()
        result = layer.base_layer.weight.data
        self._drop[id(layer)]()
        layer.merged_adapters.clear()
        return result


def _owners(model: Any, stored: dict[str, str]) -> Iterator[tuple[Any, Any, dict[str, str]]]:
    """(module whose call needs the weights, module that holds them, parameter -> tensor) for every module with weights.

    The two differ in a LoRA layer, which may read the weights of the layer in it (DoRA does).
    """
    modules = dict(model.named_modules())
    for path, module in modules.items():
        own = path.removeprefix("base_model.model.").removesuffix(".base_layer")
        names = {n: f"{own}.{n}".removeprefix(".") for n, _ in module.named_parameters(recurse=False)}
        names = {n: stored[full] for n, full in names.items() if full in stored}
        if names:
            yield modules[path.rpartition(".")[0]] if path.endswith(".base_layer") else module, module, names
