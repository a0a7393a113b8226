"""Does a passage say again what an earlier one said? In a time and a memory that grow with the text alone.

A passage's sketch is the least hashes of its shingles (three tokens in a row), as many for a long passage as for a short
one (bottom-k sketch: Cohen and Kaplan 2007). The earlier passages whose sketches share most with it are compared with it
exactly, by ROUGE-L F1 over all tokens. Of a shingle that many passages hold, the first of them are kept: it tells little,
and what looks it up must not take longer the more there are. Hashes are of the tokens' text, so that what is decided
about two passages is the same in every process. Knows nothing of files.
"""

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING
from zlib import crc32

from alpaca.generation.dedupe import rouge_l

if TYPE_CHECKING:
    import numpy as np

_SKETCH = 32  # shingles of a passage that are looked up
_HOLDERS = 64  # passages kept for a shingle
_COMPARED = 8  # earlier passages that a new one is compared with
_SHARE = 16  # at least one of so many shingles must be shared
_CODE_POINTS = 0x110000


class Passages:
    """The passages so far, and the question whether a new one is alike to one of them."""

    def __init__(self, threshold: float = 0.7) -> None:
        self.threshold = threshold
        self._holders: dict[int, tuple[int, ...]] = {}
        self._packed: list[str] = []  # one character for each token

    def add(self, tokens: list[str]) -> bool:
        """Whether a passage was added: not when its ROUGE-L F1 with an earlier one is above the threshold."""
        hashes = _hashes(tokens)
        packed = (hashes % _CODE_POINTS).astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
        sketch = _sketch(hashes)
        if any(self._alike(packed, row) for row in self._candidates(sketch)):
            return False
        for h in sketch:
            holders = self._holders.get(h, ())
            if len(holders) < _HOLDERS:
                self._holders[h] = (*holders, len(self._packed))
        self._packed.append(packed)
        return True

    def _candidates(self, sketch: list[int]) -> list[int]:
        found = Counter(chain.from_iterable(self._holders.get(h, ()) for h in sketch))
        return [row for row, shared in found.most_common(_COMPARED) if shared * _SHARE >= len(sketch)]

    def _alike(self, packed: str, row: int) -> bool:
        from rapidfuzz.distance import LCSseq

        other = self._packed[row]
        common, both = LCSseq.similarity(packed, other), len(packed) + len(other)
        return 2 * common > (self.threshold - 1e-9) * both and bool(
            rouge_l(common, len(packed), len(other)) > self.threshold
        )


def _hashes(tokens: list[str]) -> "np.ndarray":
    """A hash of each token's text: uint64 [tokens]."""
    import numpy as np

    texts = " ".join(tokens).encode("utf-8", "surrogatepass").split(b" ")
    return np.fromiter(map(crc32, texts if tokens else ()), np.uint64, len(tokens))


def _sketch(tokens: "np.ndarray") -> list[int]:
    """The least hashes of the shingles, each once, ascending. tokens: uint64 [tokens]."""
    import numpy as np

    if len(tokens) > 2:
        tokens = tokens[:-2] * np.uint64(0x9E3779B97F4A7C15) + tokens[1:-1] * np.uint64(0xC2B2AE3D27D4EB4F) + tokens[2:]
    for shift in (32, 29):  # the low bits of a product tell little of the high ones
        tokens = (tokens ^ (tokens >> np.uint64(shift))) * np.uint64(0xBF58476D1CE4E5B9)
    least = np.sort(tokens)[: 2 * _SKETCH].tolist()
    return list(dict.fromkeys(least))[:_SKETCH]
