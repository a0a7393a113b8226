"""Rows of different lengths laid end to end in one array, so that no Python object stands for a token. Knows no text."""

from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass
class Ragged:
    """Rows of whole numbers: `values` [all of them], `lengths` int64 [rows]."""

    values: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, rows: list[list[int]]) -> "Ragged":
        """Rows given as lists, as int32."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        values = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(lengths.sum()))
        return cls(values, lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def ends(self) -> np.ndarray:
        """Where each row ends in `values`, int64 [rows]."""
        return np.cumsum(self.lengths)

    @property
    def starts(self) -> np.ndarray:
        """Where each row starts in `values`, int64 [rows]."""
        return self.ends - self.lengths

    @property
    def places(self) -> np.ndarray:
        """The place of each value in its row, 0-based, int64 [values]."""
        return np.arange(len(self.values)) - np.repeat(self.starts, self.lengths)

    def tolist(self) -> list[list[int]]:
        """The rows as lists."""
        return [part.tolist() for part in np.split(self.values, self.ends[:-1])] if len(self) else []

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """For each row the sum of its values' weights, given one a value: int64 [rows]."""
        total = np.concatenate(([0], np.cumsum(weights, dtype=np.int64)))
        return total[self.ends] - total[self.starts]

    def part(self, starts: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Rows of `lengths` values from `starts` on, both places in `values`."""
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
        return Ragged(self.values[places], lengths)

    def take(self, rows: np.ndarray) -> "Ragged":
        """The rows of these numbers, in this order."""
        return self.part(self.starts[rows], self.lengths[rows])

    def cut(self, most: int | None) -> "Ragged":
        """The rows, each with at most its first `most` values; null: all of them."""
        if most is None or not (self.lengths > most).any():
            return self
        return self.part(self.starts, np.minimum(self.lengths, most))

    def join(self, other: "Ragged") -> "Ragged":
        """Each row followed by the other's row."""
        both = self.below(other)
        order = np.arange(2 * len(self)).reshape(2, -1).T.ravel()
        return Ragged(both.take(order).values, self.lengths + other.lengths)

    def below(self, other: "Ragged") -> "Ragged":
        """The rows, and under them the other's."""
        return Ragged(np.concatenate((self.values, other.values)), np.concatenate((self.lengths, other.lengths)))

    def replace(self, rows: np.ndarray, other: "Ragged") -> "Ragged":
        """The rows, with the other's in place of those of these numbers."""
        order = np.arange(len(self))
        order[rows] = len(self) + np.arange(len(other))
        return self.below(other).take(order)
