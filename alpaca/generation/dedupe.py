"""Does an instruction resemble one we have? ROUGE-L F1 against a growing pool, decided exactly and fast.

Decisions equal those of the `rouge_score` package on the same tokens: its floating-point formula says once for each
pair of lengths how long a common subsequence must be, and from there on whole numbers are compared. A candidate is
compared only with rows that an upper bound lets through, an LCS being no longer than what two bags of tokens share:

- prefix: whatever the other's length, n tokens must share threshold n / (2 - threshold) with it. So of two that are
  alike, each put in one order of tokens, the beginnings share a token, and the postings of those of the candidate name
  every row that can pass (Chaudhuri et al. 2006; Bayardo et al. 2007). The order is that of the tokens' first
  appearance, backwards: it stays as the pool grows, and what came late is rare.
- signature: a bit for each hash, set where an odd number of a row's tokens fall on it. Signatures that differ in k bits
  are of bags that differ in k tokens or more, and at most m + n - 2 LCS may stand in one alone (bitmap filter: Sandes,
  Teodoro and Melo 2020, "Bitmap filter: speeding up exact set similarity joins"). First 64 bits, then 256.

What is left goes to rapidfuzz, tokens mapped to characters. Knows nothing of rows, teachers or files.
"""

import math
import sys
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alpaca.errors import UserError
from alpaca.generation.tokens import tokenizer

if TYPE_CHECKING:
    import numpy as np

LONGEST = 65535
"""Most tokens of a text in a pool."""
_LAST_CHARACTER = 0x10FFFF
_FEW = 32  # rows that are sooner compared than looked at again
_SPREAD = 0x9E3779B1  # 2**32 over the golden ratio: numbers in a row fall far from each other
_BLOCK = 64  # texts compared at once in `nearest_of`
_IMPOSSIBLE = 2**31 - 1


@dataclass(frozen=True)
class Match:
    """A row of the pool (0 = first added) and its ROUGE-L F1 with the candidate."""

    row: int
    score: float


def rouge_l(common: Any, m: Any, n: Any) -> Any:
    """F1 of a common subsequence of `common` tokens in lists of m and n tokens, numbers or arrays.

    The operations and their order are those of rouge_score 0.1.2, so that the last bit agrees too.
    """
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = np.true_divide(common, n), np.true_divide(common, m)
        return np.where(np.greater(common, 0), 2 * precision * recall / (precision + recall), 0.0)


class Pool:
    """Instructions, in the order in which they were added, and the question which of them a new one resembles.

    Memory is linear in the tokens: a row as a string, 4 bytes for each token of its beginning, and 42 bytes.
    """

    def __init__(self, language: str = "en", threshold: float = 0.7) -> None:
        import numpy as np

        self.tokenize: Callable[[str], list[str]] = tokenizer(language)
        self.threshold = threshold
        self._ids: dict[str, int] = {}
        self._first: list[array[int]] = []  # token id -> the rows that begin with it in the order of tokens
        self._packed: list[Any] = []  # row -> one character a token
        self._lengths = array("H")
        self._longest = 0
        self._needed: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._narrow = array("Q")  # row -> its signature of 64 bits
        self._wide = array("Q")  # four for each row: its signature of 256 bits

    def __len__(self) -> int:
        return len(self._packed)

    def add(self, text: str) -> int:
        """Put a text in the pool whatever it resembles; returns its row. Raises UserError beyond LONGEST tokens."""
        row, tokens = len(self._packed), self.tokenize(text)
        if len(tokens) > LONGEST:
            raise UserError(
                f"an instruction of {len(tokens):,} tokens ({text[:40]!r}…): at most {LONGEST:,} are compared; shorten it or take it out"
            )
        ids = [self._ids.setdefault(t, len(self._ids)) for t in tokens]
        self._first += [array("I") for _ in range(len(self._ids) - len(self._first))]
        self._packed.append(_pack(ids))
        self._lengths.append(len(ids))
        narrow, wide = _signatures(ids)
        self._narrow.append(narrow)
        self._wide.frombytes(wide)
        for token in self._beginning(ids):
            self._first[token].append(row)
        self._longest = max(self._longest, len(ids))
        return row

    def match(self, text: str) -> Match | None:
        """The most similar row above the threshold (the first of equals), or None."""
        return max(self.matches(text), key=lambda m: (m.score, -m.row), default=None)

    def matches(self, text: str) -> list[Match]:
        """Every row whose ROUGE-L F1 with `text` is strictly above the threshold, in order."""
        rows, scores = self.above(text)
        return [Match(row, score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]

    def above(self, text: str) -> "tuple[np.ndarray, np.ndarray]":
        """`matches` as arrays of rows and of scores, which take little memory where there are thousands."""
        import numpy as np

        tokens = self.tokenize(text)
        m = len(tokens)
        needed, alone = self._needs(m)
        query = self._query(tokens)
        rows = self._candidates(query, alone)
        if not len(rows):
            return rows, np.empty(0)
        n = np.frombuffer(self._lengths, np.uint16)[rows]
        common = _lcs(_pack(query), [self._packed[r] for r in rows.tolist()])
        above = np.flatnonzero(common >= needed[n])
        return rows[above], rouge_l(common[above], m, n[above])

    def accept(self, texts: Iterable[str]) -> list[Match | None]:
        """One by one: None for a text that was added, else the row that it resembles too much."""
        results = []
        for text in texts:
            found = self.match(text)
            if found is None:
                self.add(text)
            results.append(found)
        return results

    def nearest_of(
        self, texts: list[str], below: list[int], count: int = 10, workers: int = 1
    ) -> list[tuple[list[Match], float]]:
        """For each text the `count` most similar of the first `below` rows, best first, and the mean over those rows.

        `below`: one for each text. `workers`: threads, -1 for all processors.
        """
        import numpy as np

        queries = [_pack(self._query(self.tokenize(t))) for t in texts]
        rows = self._packed[: max(below, default=0)]
        lengths = np.frombuffer(self._lengths, np.uint16)[: len(rows)].astype(np.float64)
        results = []
        for start in range(0, len(queries), _BLOCK):
            part = queries[start : start + _BLOCK]
            table = _lcs_table(part, rows, workers) if rows else np.zeros((len(part), 0))
            for query, common, end in zip(part, table, below[start : start + _BLOCK], strict=True):
                results.append(_top(common[:end], len(query), lengths[:end], count))
        return results

    def _query(self, tokens: list[str]) -> list[int]:
        """Ids of a candidate's tokens; one that the pool lacks matches nothing, itself included."""
        unknown = len(self._ids)
        return [self._ids.get(t, unknown) for t in tokens]

    def _needs(self, m: int) -> tuple["np.ndarray", "np.ndarray"]:
        """For a candidate of m tokens, by the length of the row: the shortest LCS above the threshold, and how many
        tokens may then stand in one of the two alone."""
        import numpy as np

        known = self._needed.get(m)
        if known is not None and len(known[0]) > self._longest:
            return known
        n = np.arange(1 << max(7, self._longest.bit_length()))
        need = np.full(len(n), _IMPOSSIBLE, np.int64)
        guess = np.floor(self.threshold * (m + n) / 2).astype(np.int64)
        for common in (guess + 2, guess + 1, guess, guess - 1):
            passes = (common > 0) & (common <= np.minimum(m, n)) & (rouge_l(common, m, n) > self.threshold)
            need[passes] = common[passes]
        self._needed[m] = need, m + n - 2 * need
        return self._needed[m]

    def _beginning(self, ids: list[int]) -> set[int]:
        """The tokens, the last to have appeared, of which a list shares one with every list above the threshold."""
        least = max(1, math.ceil(self.threshold * len(ids) / (2 - self.threshold) - 1e-9))
        return set(sorted(ids, reverse=True)[: len(ids) - least + 1])

    def _candidates(self, query: list[int], alone: "np.ndarray") -> "np.ndarray":
        """The rows, ascending, whose length, beginning and signature allow an LCS of the needed length."""
        import numpy as np

        holders = [self._first[token] for token in self._beginning(query) if token < len(self._ids)]
        if not holders:
            return np.empty(0, np.uint32)
        crowded = sum(map(len, holders)) > len(self._packed)
        if crowded:  # many alike, each found several times
            found = _union(holders, len(self._packed))
        else:
            found = np.concatenate([np.frombuffer(rows, np.uint32) for rows in holders])
        narrow, wide = _signatures(query)
        differ = np.bitwise_count(np.frombuffer(self._narrow, np.uint64)[found] ^ np.uint64(narrow))
        limit = alone[np.frombuffer(self._lengths, np.uint16)[found]]
        fits = np.flatnonzero(differ <= limit)
        found, limit = found[fits], limit[fits]
        if len(found) > _FEW:
            rows = np.frombuffer(self._wide, np.uint64).reshape(-1, 4)[found]
            differ = np.bitwise_count(rows ^ np.frombuffer(wide, np.uint64)).sum(1, dtype=np.int64)
            found = found[differ <= limit]
        return found if crowded else np.unique(found)


def _union(holders: "list[array[int]]", count: int) -> "np.ndarray":
    """The rows, of `count`, that stand in one list or another, ascending."""
    import numpy as np

    seen = np.zeros(count, bool)
    for rows in holders:
        seen[np.frombuffer(rows, np.uint32)] = True
    return np.flatnonzero(seen)


def _signatures(ids: list[int]) -> tuple[int, bytes]:
    """The signatures of 64 and of 256 bits; the words of the second are in the machine's order."""
    narrow = wide = 0
    for token in ids:
        place = token * _SPREAD & 0xFFFFFFFF
        narrow ^= 1 << (place >> 26)
        wide ^= 1 << (place >> 24)
    return narrow, wide.to_bytes(32, sys.byteorder)


def _pack(ids: list[int]) -> Any:
    """Ids as characters. Beyond the last character a tuple: rapidfuzz reads its numbers as the same code points."""
    return "".join(map(chr, ids)) if max(ids, default=0) <= _LAST_CHARACTER else tuple(ids)


def _lcs(query: Any, rows: list[Any]) -> "np.ndarray":
    """Length of the longest common subsequence with each row: int32 [rows]."""
    return _lcs_table([query], rows, 1)[0]


def _lcs_table(queries: list[Any], rows: list[Any], workers: int) -> "np.ndarray":
    """Length of the longest common subsequence of each query with each row: int32 [queries, rows]."""
    import numpy as np
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    return cdist(queries, rows, scorer=LCSseq.similarity, dtype=np.int32, workers=workers)


def _top(common: "np.ndarray", m: int, lengths: "np.ndarray", count: int) -> tuple[list[Match], float]:
    """The `count` best rows and the mean of all: sorting waits until a cheap bound has left a few rows."""
    import numpy as np

    if not len(common):
        return [], 0.0
    half = common / (lengths + m if m else np.maximum(lengths, 1))
    for level in (0.4, 0.3, 0.25, 0.2, 0.15, 0.1):
        rows = np.flatnonzero(half >= level / 2)
        if len(rows) >= count:
            break
    else:
        rows = np.flatnonzero(half)
        if len(rows) > count:
            rows = rows[half[rows] >= np.partition(half[rows], len(rows) - count)[len(rows) - count] - 1e-9]
        else:  # rows that share nothing fill up the number, the first of them first
            rows = np.sort(np.concatenate([rows, np.flatnonzero(half == 0)[: count - len(rows)]]))
    scores = rouge_l(common[rows], m, lengths[rows])
    order = np.lexsort((rows, -scores))[:count]
    return [Match(int(r), float(s)) for r, s in zip(rows[order], scores[order], strict=True)], 2 * float(half.mean())
