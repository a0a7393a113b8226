"""Which number formats a run uses on the device that is there."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alpaca import devices
from alpaca.config import TrainConfig
from alpaca.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Precision:
    """`compute`: dtype of products under autocast; `weights`: dtype of the base in memory; `tf32`: None leaves it alone."""

    name: str
    compute: "torch.dtype"
    weights: "torch.dtype"
    tf32: bool | None


def choose(config: TrainConfig) -> Precision:
    """bf16 where the GPU has it, else fp16 with loss scaling on CUDA, else fp32. Raises UserError where it cannot be.

    Weights that are trained stay in fp32 (autocast does the rest); a frozen base is kept in the compute dtype.
    """
    import torch

    cuda = torch.cuda.is_available() and not config.trainer.get("use_cpu", False)
    name = config.precision
    if name == "auto":
        name = "fp32"
        if cuda:  # bf16 where every GPU of the run has it
            name = "bf16" if devices.least(torch.cuda.is_bf16_supported(including_emulation=False)) else "fp16"
    if name == "fp16" and not cuda:
        raise UserError(
            "precision=fp16 needs a CUDA device, for its loss scaling: use precision=auto, fp32 or bf16 here"
        )
    if name == "bf16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("precision=bf16 is not there on this GPU: use precision=auto, fp16 or fp32")
    compute = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]
    weights = torch.float32 if config.method.train == "all" else compute
    tf32 = True if cuda and torch.cuda.get_device_capability() >= (8, 0) else None
    return Precision(name, compute, weights, tf32)
