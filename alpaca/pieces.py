"""Texts to token ids in pieces that cannot merge with each other, so that each different piece is tokenised once.

The ids are those of the whole texts; where that is not certain it says so. Knows no special tokens and no rows.
"""

from typing import Any

import numpy as np

from alpaca.ragged import Ragged
from alpaca.spelling import Spelling

MOST = 2_000_000
"""Different pieces that are remembered; with more, all are forgotten."""


class Pieces:
    """The pieces of all texts so far, each with its ids."""

    def __init__(self, backend: Any, spelling: Spelling) -> None:
        """`backend`: the tokenizers-library object whose ids are wanted."""
        from tokenizers import Tokenizer, normalizers

        self._spelling = spelling
        self._backend = Tokenizer(backend.model)
        if spelling.lead:
            self._backend.normalizer = normalizers.Replace(" ", "\u2581")
        else:
            if backend.normalizer is not None:
                self._backend.normalizer = backend.normalizer
            self._backend.pre_tokenizer = backend.pre_tokenizer
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}
        self._ids = Ragged.of([])
        self._doubtful = np.zeros(0, dtype=bool)

    def encode(self, texts: list[str]) -> tuple[Ragged, np.ndarray]:
        """(ids of each text without special tokens, which texts' ids are certain: bool [texts])."""
        if len(self._numbers) > MOST:
            self._forget()
        lead = self._spelling.lead
        certain = np.array([bool(t) and not (lead and t[0] in " \u2581") for t in texts], dtype=bool)
        pieces = self._cut([" " + t for t in texts] if lead else texts)
        ids = self._ids.take(pieces.values)
        certain &= pieces.sums(self._doubtful[pieces.values]) == 0
        return Ragged(ids.values, pieces.sums(ids.lengths)), certain

    def _cut(self, texts: list[str]) -> Ragged:
        """The numbers of each text's pieces."""
        import pyarrow as pa

        array = pa.array(texts, pa.large_string())
        ends = np.frombuffer(array.buffers()[1], dtype=np.int64)[: len(texts) + 1]
        if not ends[-1]:
            return Ragged(np.zeros(0, dtype=np.int64), np.zeros(len(texts), dtype=np.int64))
        data = np.frombuffer(array.buffers()[2], dtype=np.uint8)[: ends[-1]]
        first = np.zeros(len(data), dtype=bool)
        first[1:] = self._spelling.apart[data[:-1], data[1:]]
        first[ends[:-1][ends[:-1] < len(data)]] = True
        starts = np.flatnonzero(first)
        places = pa.py_buffer(np.append(starts, len(data)))
        pieces = pa.LargeStringArray.from_buffers(len(starts), places, array.buffers()[2]).dictionary_encode()
        numbers = self._number(pieces.dictionary.to_pylist())
        return Ragged(numbers[pieces.indices.to_numpy()], np.diff(np.searchsorted(starts, ends)))

    def _number(self, pieces: list[str]) -> np.ndarray:
        new = [p for p in pieces if p not in self._numbers]
        if new:
            self._learn(new)
        return np.fromiter(map(self._numbers.__getitem__, pieces), dtype=np.int64, count=len(pieces))

    def _learn(self, pieces: list[str]) -> None:
        ids = Ragged.of([e.ids for e in self._backend.encode_batch_fast(pieces, add_special_tokens=False)])
        sizes = np.fromiter((len(p.encode()) for p in pieces), dtype=np.int64, count=len(pieces))
        doubtful = ids.sums(self._spelling.table[ids.values]) != sizes
        added = self._spelling.added
        if added is not None and added.search(" ".join(pieces)):
            doubtful |= np.fromiter((bool(added.search(p)) for p in pieces), dtype=bool, count=len(pieces))
        self._numbers.update(zip(pieces, range(len(self._numbers), len(self._numbers) + len(pieces)), strict=True))
        self._ids = self._ids.below(ids)
        self._doubtful = np.concatenate((self._doubtful, doubtful))
