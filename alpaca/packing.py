"""Examples laid together in rows of `max_length` tokens: best-fit decreasing over an order that the seed gives.

A packed row is a list of examples; each keeps its own positions and attention (see `padding_free`), so that its losses
are those it has alone. What changes is how many examples an optimiser step sees. Knows no model and no trainer.
"""

import functools
import hashlib
from typing import Any

import numpy as np


def pack(lengths: np.ndarray, size: int, seed: int) -> list[list[int]]:
    """Which examples go into each row; every example in just one, each row of `size` tokens at most.

    Best-fit decreasing (Johnson, 1973): the longest first, each into the fullest row that still has room for it.
    Equal lengths come in an order that `seed` gives. An example longer than `size` has a row of its own.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}
    rooms = 0  # bit n is set where a row has room for n more tokens
    for example in order.tolist():
        length = int(lengths[example])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms &= ~(1 << room)
            rows[row].append(example)
        else:
            room, row = size, len(rows)
            rows.append([example])
        if (left := room - length) > 0:
            open_rows.setdefault(left, []).append(row)
            rooms |= 1 << left
    return rows


class PackedDataset:
    """A `TokenDataset` in packed rows. Item: the list of the row's examples."""

    def __init__(self, examples: Any, size: int, seed: int) -> None:
        self.examples, self.size = examples, size
        self.packs = pack(examples.lengths, size, seed)

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        return [self.examples[i] for i in self.packs[index]]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names what is trained on by its content, and which examples share a row."""
        total = hashlib.sha256(self.examples.fingerprint.encode())
        for row in self.packs:
            total.update(np.asarray([len(row), *row], dtype=np.int64).tobytes())
        return total.hexdigest()[:32]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        lengths = self.examples.lengths
        return np.array([int(lengths[row].sum()) for row in self.packs])

    @property
    def with_loss(self) -> np.ndarray:
        """Tokens of each row that are no prompt."""
        responses = self.examples.lengths - self.examples.prompt_lengths
        return np.array([int(responses[row].sum()) for row in self.packs])

    @property
    def filled(self) -> float:
        """Share of the rows that tokens fill."""
        return float(self.lengths.sum() / (self.size * len(self)))

    def __str__(self) -> str:
        return (
            f"{len(self.examples):,} rows in {len(self):,} packed ones of {self.size} tokens, {self.filled:.1%} filled, "
            f"{len(self.examples) / len(self):.1f} examples in each"
        )
