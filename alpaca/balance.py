"""The rows of an optimiser step shared out anew over its micro-batches and processes, by their tokens.

A step keeps its rows, so its gradient is the same to rounding. Without padding each micro-batch gets about as many
tokens as the others; where rows are padded, those of a micro-batch are of like length. Knows no model.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from alpaca.rank_batches import FILLER, RankBatches


def even(lengths: Sequence[int], slots: int, most: int) -> list[list[int]]:
    """Positions in `slots` lists of at most `most`, with about as many tokens in each.

    The longest first, each to the list with the fewest tokens that is not full (Graham, 1969).
    """
    found: list[list[int]] = [[] for _ in range(slots)]
    lightest = [(0, slot) for slot in range(slots)]
    for position in sorted(range(len(lengths)), key=lambda p: -lengths[p]):
        tokens, slot = heapq.heappop(lightest)
        found[slot].append(position)
        if len(found[slot]) < most:
            heapq.heappush(lightest, (tokens + lengths[position], slot))
    return found


def alike(lengths: Sequence[int], slots: int) -> list[list[int]]:
    """Positions in `slots` lists of equal number (or one less), those of a list of like length."""
    order = sorted(range(len(lengths)), key=lambda p: -lengths[p])
    cuts = [round(slot * len(order) / slots) for slot in range(slots + 1)]
    return [order[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]


def dealt(parts: list[list[int]], work: Callable[[list[int]], int], processes: int) -> list[list[int]]:
    """The parts in an order that gives processes, dealt to in turn, about the same work in each round and in all."""
    heavy = sorted(parts, key=lambda part: -work(part))
    done = [0] * processes
    result: list[list[int]] = []
    for start in range(0, len(heavy), processes):
        here = heavy[start : start + processes]
        turn: list[list[int]] = [[] for _ in range(processes)]
        for part, process in zip(here, sorted(range(processes), key=lambda p: done[p]), strict=False):
            turn[process], done[process] = part, done[process] + work(part)
        result += turn
    return result


class BalancedBatches(RankBatches):
    """`RankBatches` whose micro-batches are balanced within each step of `accumulation` micro-batches a process."""

    def __init__(
        self,
        sampler: Any,
        per_device: int,
        processes: int,
        rank: int,
        drop_last: bool = False,
        *,
        accumulation: int,
        lengths: Sequence[int],
        padded: Callable[[], bool],
    ) -> None:
        """`lengths`: tokens of each row; `padded`: whether the model pads micro-batches, asked when an epoch starts."""
        super().__init__(sampler, per_device, processes, rank, drop_last)
        self.accumulation, self.lengths, self.padded = accumulation, lengths, padded

    def __iter__(self) -> Iterator[list[int]]:
        padded, indices, mine = self.padded(), iter(self.sampler), 0
        while step := list(islice(indices, self.per_device * self.processes * self.accumulation)):
            if self.drop_last:
                step = step[: len(step) // self.per_device * self.per_device]
            for part in self.shared_out(step, padded)[self.rank :: self.processes]:
                mine += 1
                yield part or [FILLER]
        assert mine == len(self)

    def shared_out(self, step: list[int], padded: bool) -> list[list[int]]:
        """The micro-batches of a step, in the order in which they are dealt out."""
        lengths = [int(self.lengths[i]) for i in step]
        rounds = math.ceil(math.ceil(len(step) / self.per_device) / self.processes)
        slots = min(len(step), rounds * self.processes)
        if not slots:
            return []
        parts = alike(lengths, slots) if padded else even(lengths, slots, self.per_device)

        def work(part: list[int]) -> int:
            return max(lengths[p] for p in part) * len(part) if padded else sum(lengths[p] for p in part)

        return [[step[p] for p in part] for part in dealt(parts, work, self.processes)]
