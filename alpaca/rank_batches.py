"""Which rows each process takes, so that a step sees the rows that one process would: in its order, none twice, none left.

The micro-batches of an epoch, in the order of one process, are dealt out in turn. Where the last ones do not go round,
the processes without one get a filler that carries no loss, so that all take the same number of steps.
"""

import math
from collections.abc import Iterator
from typing import Any

FILLER = -1
"""Index, and `row`, of an example that is there only to keep a process in step."""


class RankBatches:
    """The batches of indices of process `rank` among `processes`; a batch sampler for torch's DataLoader."""

    def __init__(self, sampler: Any, per_device: int, processes: int, rank: int, drop_last: bool = False) -> None:
        """`sampler` gives the indices of an epoch and must give every process the same."""
        self.sampler, self.per_device, self.processes, self.rank = sampler, per_device, processes, rank
        self.drop_last = drop_last
        self.batch_size = None  # accelerate: batches are taken as they come

    def __len__(self) -> int:
        rows = len(self.sampler)
        batches = rows // self.per_device if self.drop_last else math.ceil(rows / self.per_device)
        return math.ceil(batches / self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        number, mine, batch = 0, 0, []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.per_device:
                if number % self.processes == self.rank:
                    mine += 1
                    yield batch
                number, batch = number + 1, []
        if batch and not self.drop_last and number % self.processes == self.rank:
            mine += 1
            yield batch
        while mine < len(self):
            mine += 1
            yield [FILLER]


class Filled:
    """A data set whose example FILLER is two tokens of its first one, without loss."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index != FILLER:
            return self.dataset[index]
        first = self.dataset[0]
        first = first[0] if isinstance(first, list) else first  # of a packed row
        ids = first["input_ids"][:2]
        return first | {"input_ids": ids, "labels": [-100] * len(ids), "row": FILLER}
