"""Settings that this device or this model family cannot serve, refused before weights are read. Knows no data."""

import shutil
from typing import TYPE_CHECKING, Any

from alpaca import devices
from alpaca.config import TrainConfig
from alpaca.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FAMILY_HAS = {
    "sdpa": "_supports_sdpa",
    "flash_attention_2": "_supports_flash_attn",
    "flash_attention_3": "_supports_flash_attn",
    "flex_attention": "_supports_flex_attn",
}
"""Attention -> what transformers calls it on a model's class."""


def check(config: TrainConfig, architecture: "PretrainedConfig | None", precision: str) -> None:
    """Raise UserError for attention, checkpointing or compilation that cannot be. `precision`: bf16, fp16 or fp32."""
    attention, cuda = config.model.attention, devices.uses_cuda(config)
    if attention.startswith(("flash_attention", "flex_attention")) and not cuda:  # flex has no backward pass on a CPU
        raise UserError(f"model.attention={attention} trains on CUDA devices only: use model.attention=sdpa here")
    if attention.startswith("flash_attention") and precision == "fp32":
        raise UserError(
            f"model.attention={attention} computes in 16 bits: use precision=bf16 or fp16, or model.attention=sdpa"
        )
    if config.trainer.get("torch_compile") and not cuda and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise UserError(
            "trainer.torch_compile needs a C++ compiler (g++) on a machine without a GPU: install one, or leave it out"
        )
    family = _family(config, architecture)
    if family is None:
        return
    if not getattr(family, FAMILY_HAS.get(attention, ""), True):
        others = [name for name, has in FAMILY_HAS.items() if getattr(family, has, False)]
        raise UserError(
            f"model.attention={attention} is not there for {family.__name__}: use {', '.join(['eager', *others])} or auto"
        )
    asked = config.trainer.get("gradient_checkpointing") not in (None, False, "auto")
    if asked and not getattr(family, "supports_gradient_checkpointing", False):
        raise UserError(
            f"trainer.gradient_checkpointing cannot be with {family.__name__}, whose layers cannot be run again one by "
            "one: leave it out, and use a smaller batch.per_device where memory is short"
        )


def _family(config: TrainConfig, architecture: "PretrainedConfig | None") -> Any:
    """The model's class in transformers, or None where it is not one of its own."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind: Any = type(architecture)
    if architecture is None:
        name = str((config.model.architecture or {}).get("model_type"))
        if name not in CONFIG_MAPPING:
            return None
        kind = CONFIG_MAPPING[name]
    return MODEL_FOR_CAUSAL_LM_MAPPING.get(kind, None)
