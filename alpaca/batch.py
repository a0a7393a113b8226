"""Batch arithmetic: how many micro-batches make an optimiser step, and how many steps a run has. Knows no torch."""

import math
from dataclasses import dataclass

from alpaca.config import BatchConfig
from alpaca.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """What the batch settings come to."""

    processes: int
    per_device: int
    accumulation: int
    rows: int
    steps_per_epoch: int
    steps: int
    epochs: float

    @property
    def global_size(self) -> int:
        """Sequences in an optimiser step."""
        return self.processes * self.per_device * self.accumulation


def accumulation(batch: BatchConfig, processes: int) -> int:
    """Micro-batches in an optimiser step. Raises UserError with the values that would divide."""
    at_once = batch.per_device * processes
    if batch.global_size % at_once == 0:
        return batch.global_size // at_once
    sizes = [g for g in (batch.global_size // at_once * at_once, -(-batch.global_size // at_once) * at_once) if g]
    fitting = [d for d in range(1, batch.global_size + 1) if batch.global_size % (d * processes) == 0]
    counts = [p for p in range(1, batch.global_size + 1) if batch.global_size % (batch.per_device * p) == 0]
    options = [f"batch.global_size={' or '.join(map(str, dict.fromkeys(sizes)))}"]
    if fitting:
        options.append(f"batch.per_device={_few(fitting)}")
    if counts:
        options.append(f"launch.processes={_few(counts)}")
    raise UserError(
        f"batch.global_size={batch.global_size} is not a multiple of batch.per_device={batch.per_device} x "
        f"{processes} process{'es' if processes > 1 else ''}: use {', or '.join(options)}"
    )


def _few(values: list[int]) -> str:
    return "|".join(map(str, values)) if len(values) <= 12 else "|".join(map(str, values[:11])) + "|…"


def plan(
    batch: BatchConfig, processes: int, rows: int, epochs: float, max_steps: int = -1, drop_last: bool = False
) -> BatchPlan:
    """Steps of a run, counted as the Trainer does: the last partial batch of an epoch is a step of its own."""
    accumulate = accumulation(batch, processes)
    micro_batches = rows // batch.per_device if drop_last else math.ceil(rows / batch.per_device)
    steps_per_epoch = max(1, math.ceil(math.ceil(micro_batches / processes) / accumulate))
    if max_steps > 0:
        return BatchPlan(
            processes, batch.per_device, accumulate, rows, steps_per_epoch, max_steps, max_steps / steps_per_epoch
        )
    steps = math.ceil(epochs * steps_per_epoch)
    return BatchPlan(processes, batch.per_device, accumulate, rows, steps_per_epoch, steps, epochs)
