"""What is trained: every weight, or LoRA adapters on a base that may be quantised. Knows no data.

Layer names come from the model itself, so a new family needs nothing here.
"""

from typing import TYPE_CHECKING, Any

from alpaca.config import LoraConfig, MethodConfig
from alpaca.errors import UserError
from alpaca.schema import nearest

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


def quantization(method: MethodConfig, compute: "torch.dtype", sharded: bool = False) -> Any:
    """The bitsandbytes settings for `from_pretrained`, or None; `compute` is the dtype of products when it is auto.

    sharded: 4-bit numbers lie in tensors of the compute dtype, as bitsandbytes and PEFT ask for under FSDP: it then
    gathers them as they are, where bytes (uint8) would be cast to the compute dtype.
    """
    import torch
    from transformers import BitsAndBytesConfig

    settings = method.quantize
    if settings is None:
        return None
    if settings.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_storage=compute if sharded else None,
        bnb_4bit_quant_type=settings.type,
        bnb_4bit_use_double_quant=settings.double,
        bnb_4bit_compute_dtype=compute if settings.compute_dtype == "auto" else getattr(torch, settings.compute_dtype),
    )


def apply(model: "PreTrainedModel", method: MethodConfig) -> "PreTrainedModel | PeftModel":
    """The model with what `method` trains marked as trainable; adapters in fp32 on a frozen base."""
    if method.train == "all":
        model.requires_grad_(True)
        return model
    from peft import LoraConfig as PeftLora
    from peft import TaskType, get_peft_model

    assert method.lora is not None
    lora = method.lora
    check_targets(model, lora)
    if method.quantize is not None and not _is_meta(model):
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    settings = PeftLora(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT divides by it: a float serves
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )
    leave_casts_to_autocast()
    return get_peft_model(model, settings)


def leave_casts_to_autocast() -> None:
    """Let adapters take their input as it is under autocast, which casts what a product is given.

    PEFT makes it fp32 for them first: dropout would then work on twice the bytes, for the same product. DoRA keeps that:
    it computes norms of weights in the format of its input.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    BaseTunerLayer._cast_input_dtype = _cast_input  # type: ignore


def _cast_input(layer: Any, x: Any, dtype: Any) -> Any:
    import torch

    if x is None or x.dtype == dtype or not getattr(layer, "cast_input_dtype_enabled", True):
        return x
    plain = not getattr(layer, "lora_variant", None)
    return x if plain and torch.is_autocast_enabled(x.device.type) else x.to(dtype)


def linear_names(model: "PreTrainedModel") -> list[str]:
    """Last parts of the names of the linear layers, without the output layer."""
    from torch import nn

    output = model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not output
    }
    return sorted(names)


def check_targets(model: "PreTrainedModel", lora: LoraConfig) -> None:
    """Raise UserError for a target that no linear layer has."""
    if isinstance(lora.targets, str):
        return
    allowed = linear_names(model)
    unknown = [t for t in lora.targets if t.rpartition(".")[2] not in allowed]
    if unknown:
        raise UserError(
            f"method.lora.targets names {unknown[0]!r}, which this model has not{nearest(unknown[0], allowed)} "
            f"(allowed: all-linear, or any of {', '.join(allowed)})"
        )


def count(model: Any) -> tuple[int, int]:
    """(trainable, total) parameters; tied weights once, a 4-bit weight by its unpacked elements."""
    trainable = total = 0
    for parameter in model.parameters():
        n = parameter.numel()
        if type(parameter).__name__ == "Params4bit" and parameter.quant_state is not None:
            n = parameter.quant_state.shape.numel()
        total += n
        trainable += n if parameter.requires_grad else 0
    return trainable, total


def _is_meta(model: Any) -> bool:
    return next(model.parameters()).is_meta
