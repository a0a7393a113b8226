"""Numbers leave the device a step late, so that no step waits for it. Knows no trainer."""

from dataclasses import dataclass, field
from typing import Any

import torch


class Numbers:
    """Single values on their way from a device into host memory, fp32."""

    def __init__(self, values: list[torch.Tensor]) -> None:
        stacked = torch.stack([v.detach().float().reshape(()) for v in values])
        self._done: torch.cuda.Event | None = None
        self._host = stacked
        if stacked.is_cuda:
            self._host = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
            self._host.copy_(stacked, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()

    def read(self) -> list[float]:
        """The values; waits until they have arrived."""
        if self._done is not None:
            self._done.synchronize()
        return self._host.tolist()


@dataclass
class StepLosses:
    """The losses of a step's micro-batches, and the rows they were taken on."""

    step: int
    losses: Numbers
    rows: list[int]


@dataclass
class StepLog:
    """What is logged of a step: `values` has the summed loss of `steps` steps and, where it is a tensor, the norm."""

    step: int
    epoch: float | None
    steps: int
    values: Numbers
    tokens: int
    seconds: float
    more: dict[str, Any] = field(default_factory=dict)
