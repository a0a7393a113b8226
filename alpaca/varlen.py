"""Attention within sequences laid end to end by one kernel: torch's, else flash-attn's, where there is one.

Both are FlashAttention (arXiv 2307.08691) over sequences of different lengths, in half precision on CUDA. Versions of
torch name its arguments differently; what a kernel computes is checked before it is used (`forward_check`).
Knows no model.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

Kernel = Callable[..., torch.Tensor]
"""(query, key, value: (tokens, heads, width); ends: int32 (sequences + 1,); longest; scale) -> as query. Causal."""
WIDEST = 256
"""Width of a head that FlashAttention takes at most."""
_off = False


def switch(on: bool) -> None:
    """Use a kernel where there is one, or go sequence by sequence after one was found wrong."""
    global _off
    _off = not on


def find(query: torch.Tensor, dropout: float) -> tuple[Kernel, torch.dtype] | None:
    """(kernel, dtype that it computes in) for this query on its device, or None.

    Under autocast the dtype is autocast's: norms and rotary tables have made fp32 of the query by then.
    """
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    half = dtype in (torch.float16, torch.bfloat16)
    if _off or not half or dropout or query.shape[-1] > WIDEST or not _has_flash(query.device):
        return None
    kernel = installed()
    return None if kernel is None else (kernel, dtype)


@functools.cache
def _has_flash(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@functools.cache
def installed() -> Kernel | None:
    """The kernel that can be imported here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        pass
    else:
        return of_torch(varlen_attn)
    try:
        from flash_attn import flash_attn_varlen_func
    except (ImportError, OSError):  # built for another torch
        return None
    return of_flash_attn(flash_attn_varlen_func)


def of_torch(function: Any) -> Kernel:
    """torch.nn.attention.varlen.varlen_attn, whose arguments have grown since torch 2.10."""
    known = inspect.signature(function).parameters

    def attend(query: Any, key: Any, value: Any, ends: Any, longest: int, scale: float | None) -> torch.Tensor:
        options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
        if "scale" in known:
            options["scale"] = scale
        elif scale is not None:  # it divides by the root of the width
            query = query * (scale * query.shape[-1] ** 0.5)
        if (groups := query.shape[1] // key.shape[1]) > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        return function(query, key, value, ends, ends, longest, longest, **options)

    return attend


def of_flash_attn(function: Any) -> Kernel:
    """flash_attn.flash_attn_varlen_func; it shares keys among heads by itself."""

    def attend(query: Any, key: Any, value: Any, ends: Any, longest: int, scale: float | None) -> torch.Tensor:
        return function(query, key, value, ends, ends, longest, longest, softmax_scale=scale, causal=True)

    return attend
