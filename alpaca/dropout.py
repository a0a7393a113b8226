"""Dropout of sequences laid end to end, drawn as if they were padded: the same seed drops the same values either way.

So a run without padding equals the plain one step by step, and a recipe with dropout can be compared with its original.
"""

from types import TracebackType
from typing import Any

import torch
from torch.nn import functional

from alpaca.padding_free import sent


class PaddedDropout:
    """While open, dropout on (1, tokens, width) or (tokens, width) draws for (sequences, longest, width).

    `torch.nn.functional.dropout` is exchanged while it is open: a mode of torch would be off during the backward pass,
    where gradient checkpointing draws again.
    """

    def __init__(self, lengths: list[int]) -> None:
        self.shape = (len(lengths), max(lengths))
        self.tokens = sum(lengths)
        self.places = torch.cat([torch.arange(n) + i * self.shape[1] for i, n in enumerate(lengths)])
        self.plain = functional.dropout
        self.used = False
        """Whether anything was dropped."""

    def __enter__(self) -> "PaddedDropout":
        self.plain = functional.dropout
        functional.dropout = self.drop
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        functional.dropout = self.plain

    def drop(self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        """As torch.nn.functional.dropout, drawn in the padded shape where the input holds a value for each token."""
        if not training or p == 0:
            return self.plain(input, p, training, inplace)
        self.used = True
        if input.shape[:-1] not in ((1, self.tokens), (self.tokens,)):
            return self.plain(input, p, training, inplace)
        if self.places.device != input.device:
            self.places = sent(self.places, input.device)
        if input.is_cuda and p < 1:  # as torch's own kernel does it: its draw alone, and a mask of a byte a value
            _, drawn = torch.native_dropout(input.new_empty((*self.shape, input.shape[-1])), p, True)
            kept = drawn.flatten(0, 1).index_select(0, self.places).view(input.shape)
            dropped = _Masked.apply(input, kept, 1 / (1 - p))
            return input.copy_(dropped) if inplace else dropped
        drawn = self.plain(input.new_ones((*self.shape, input.shape[-1])), p)
        factors = drawn.flatten(0, 1).index_select(0, self.places).view(input.shape)
        return input.mul_(factors) if inplace else input * factors


class _Masked(torch.autograd.Function):
    """input x mask x scale, rounded once; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return torch.ops.aten.native_dropout_backward(input, kept, scale)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return torch.ops.aten.native_dropout_backward(slopes[0], *ctx.saved_tensors, ctx.scale), None, None
