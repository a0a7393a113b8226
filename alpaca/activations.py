"""Bytes that a forward pass keeps for the backward pass, counted by autograd itself on tensors without storage.

A model of one layer and one of two are run under torch's fake tensors, with hooks on everything autograd saves; layers
are alike, so the rest follows. That needs no formula for each family: what a family, an attention implementation, LoRA or
autocast keeps is seen. (Korthikanti et al., arXiv 2205.05198, give the like in closed form for one family.)
With gradient checkpointing (Chen et al., arXiv 1604.06174) each layer keeps its input alone, and one layer at a time is
run again.
"""

import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any

from alpaca.config import MethodConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclasses.dataclass(frozen=True)
class Activations:
    """Bytes for one micro-batch: `outside` of the layers, for each `layer`, for a layer's `entry` (its input alone)."""

    outside: int
    layer: int
    entry: int

    def total(self, layers: int, checkpointing: bool) -> int:
        """What is held at once in a model of so many layers."""
        if checkpointing:
            return self.outside + layers * self.entry + self.layer
        return self.outside + layers * self.layer


def trace(
    architecture: "PretrainedConfig", method: MethodConfig, compute: str, attention: str, rows: int, length: int
) -> Activations:
    """Activations of the decoder (without the output layer) for `rows` sequences of `length` tokens.

    `compute`: dtype of products under autocast, fp32 for none. A quantised base keeps what a frozen one keeps.
    """
    plain = dataclasses.replace(method, quantize=None)
    key = json.dumps([dataclasses.asdict(plain), architecture.to_dict()], sort_keys=True, default=str)
    return _trace(key, method.quantize is not None, compute, attention, rows, length)


@functools.lru_cache(maxsize=256)
def _trace(key: str, quantized: bool, compute: str, attention: str, rows: int, length: int) -> Activations:
    from alpaca import schema

    plain, architecture = json.loads(key)
    method = schema.build(MethodConfig, plain, "method", [])
    saved = [_saved(architecture, method, quantized, compute, attention, rows, length, n) for n in (1, 2)]
    layer = max(0, saved[1][0] - saved[0][0])
    return Activations(max(0, saved[0][0] - layer), layer, saved[0][1])


def _saved(
    architecture: dict[str, Any],
    method: MethodConfig,
    quantized: bool,
    compute: str,
    attention: str,
    rows: int,
    length: int,
    layers: int,
) -> tuple[int, int]:
    """(bytes saved for the backward pass, bytes of a hidden state) of a model with so many layers."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[architecture["model_type"]].from_dict(_with_layers(architecture, layers))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[compute]
    model = _shape(config, method, quantized, dtype, attention)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _materialise(model)
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
        shapes |= {shape[::-1] for shape in shapes}
        while any(rows * length in shape for shape in shapes):  # so that no activation looks like a weight
            length += 1
        kept: dict[int, tuple[Any, int]] = {}  # the storage itself is held, so that its address stays its own

        def note(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            copy_of_weight = tensor.ndim == 2 and tuple(tensor.shape) in shapes
            if storage._cdata not in weights and not copy_of_weight:
                kept[storage._cdata] = (storage, storage.nbytes())
            return tensor

        ids = torch.zeros(rows, length, dtype=torch.long)
        decoder = model.get_base_model().base_model if method.train == "lora" else model.base_model
        autocast = torch.autocast("cpu", dtype if compute != "fp32" else torch.bfloat16, enabled=compute != "fp32")
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), autocast:
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
        return sum(size for _, size in kept.values()), hidden.numel() * hidden.element_size()


def _shape(config: Any, method: MethodConfig, quantized: bool, dtype: Any, attention: str) -> Any:
    """The model with its method, on the meta device, every parameter in the format it has while training."""
    import torch
    from transformers import AutoModelForCausalLM

    from alpaca import method as methods

    with torch.device("meta"):
        try:
            implementation = "eager" if attention == "eager" else "sdpa"
            base = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
        except ValueError:  # a family without it
            base = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        for module in base.modules() if method.train == "lora" else ():
            narrow = isinstance(module, torch.nn.Linear) and module is not base.get_output_embeddings()
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype if narrow or not quantized else torch.float32)
        model = methods.apply(base, method).train()
        for module in model.modules():
            if hasattr(module, "layerdrop"):  # it asks a number drawn whether to run a layer: here each one runs
                module.training = False
        return model


def _materialise(model: Any) -> None:
    """Every parameter and buffer as a CPU tensor; under fake tensors that takes no memory."""
    import torch

    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype)
            module._parameters[name] = torch.nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _with_layers(architecture: dict[str, Any], layers: int) -> dict[str, Any]:
    name = next((n for n in ("num_hidden_layers", "n_layer", "num_layers") if n in architecture), "num_hidden_layers")
    changed = architecture | {name: layers}
    if isinstance(changed.get("layer_types"), list):
        changed["layer_types"] = changed["layer_types"][:layers]
    return changed
