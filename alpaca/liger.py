"""Liger's fused kernels for norms, rotary positions and MLPs, where installed. Its losses are not taken: the loss in
chunks (`chunked_loss`) makes no logits either. What the kernels compute is compared in `forward_check`.
"""

from importlib.util import find_spec
from typing import Any

from alpaca import compiling
from alpaca.config import TrainConfig
from alpaca.errors import UserError, first_line

OPTIONS = {"cross_entropy": False, "fused_linear_cross_entropy": False}


def wanted(config: TrainConfig, cuda: bool) -> bool:
    """Whether the run is to try them. Raises UserError where they are asked for and cannot be had.

    Not in compiled layers: on an H200 torch 2.11 ended with an assertion within liger-kernel 0.8.5.
    """
    asked, installed = config.training.liger, find_spec("liger_kernel") is not None
    if asked is True and not cuda:
        raise UserError(
            "training.liger=true needs a CUDA device, for its kernels run on no CPU: use training.liger=auto"
        )
    if asked is True and not installed:
        raise UserError(
            "training.liger=true needs liger-kernel: pip install -r requirements-gpu.txt, or use training.liger=auto"
        )
    compiled = compiling.take(dict(config.trainer)) is not None
    return cuda and installed and asked is not False and config.training.fast and not compiled


def apply(model: Any) -> str:
    """Exchange what Liger has kernels for, in place; returns why nothing was exchanged, or nothing."""
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance as exchange
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as known
    except Exception as error:  # whatever a package built for other versions raises
        return f"liger-kernel cannot be imported ({first_line(error)})"
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = base.config.model_type
    if kind not in known:
        return f"liger-kernel knows no {kind}"
    exchange(model=base, **OPTIONS)
    return ""
