"""Which instructions of a set are copies of each other, and which pairs are nearly so. Every pair is decided exactly.

Copies (the same tokens) are put together first and compared as one, so that thousands of one row cost no more than one;
of pairs that are nearly alike the most similar few of each row are named, and all are counted. Knows no files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alpaca.evaluation.config import AuditConfig
from alpaca.generation.dedupe import LONGEST, Pool
from alpaca.generation.items import Item


@dataclass
class Pairs:
    """What was counted so far, while `findings` runs. Pairs are those of rows, not of groups."""

    above: int = 0
    """Pairs above the threshold, those of copies included."""
    of_copies: int = 0
    groups: int = 0
    """Groups of two copies or more."""
    not_compared: int = 0
    """Instructions that hold no token of the language, or too many."""


def findings(items: list[Item], config: AuditConfig, pairs: Pairs) -> Iterator[dict[str, Any]]:
    """One for each group of copies, for each pair that is named, and for each row that was not compared."""
    from tqdm import tqdm

    pool, sizes = Pool(config.language, config.threshold), _Sizes()
    groups: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        tokens = pool.tokenize(item.instruction)
        if 0 < len(tokens) <= LONGEST:
            groups.setdefault(" ".join(tokens), []).append(number)
        elif item.instruction.strip():
            pairs.not_compared += 1
            reason = f"more than {LONGEST:,} tokens" if tokens else f"no token in audit.language={config.language}"
            yield {"kind": "not compared", "row": number, "reason": reason, "text": item.instruction[:1000]}
    members = list(groups.values())
    for rows in tqdm(members, desc="comparing", unit="instruction", disable=None, leave=False):
        if len(rows) > 1 and config.threshold < 1:
            pairs.groups += 1
            pairs.of_copies += len(rows) * (len(rows) - 1) // 2
            yield _copies(rows, items)
        text = items[rows[0]].instruction
        found, scores = pool.above(text)
        pairs.above += len(rows) * sizes.of(found)
        for place, score in _best(found, scores, config.pairs_per_row):
            yield _pair(members[place], rows, score, items)
        pool.add(text)
        sizes.add(len(rows))
    pairs.above += pairs.of_copies


class _Sizes:
    """How many rows each text of a pool stands for."""

    def __init__(self) -> None:
        from array import array

        self._sizes = array("q")

    def add(self, size: int) -> None:
        self._sizes.append(size)

    def of(self, places: Any) -> int:
        """Of some texts together."""
        import numpy as np

        return int(np.frombuffer(self._sizes, np.int64)[places].sum()) if len(places) else 0


def _best(places: Any, scores: Any, most: int) -> list[tuple[int, float]]:
    """The most similar, the first of equals before the others."""
    import numpy as np

    order = np.lexsort((places, -scores))[:most]
    return [(int(places[i]), float(scores[i])) for i in order]


def _copies(rows: list[int], items: list[Item]) -> dict[str, Any]:
    whole = len({(items[r].input, items[r].output) for r in rows})
    text = items[rows[0]].instruction
    return {"kind": "copies", "copies": len(rows), "different_rows": whole, "rows": rows, "text": text}


def _pair(first: list[int], second: list[int], score: float, items: list[Item]) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": "similar pair", "rows": [first[0], second[0]], "score": round(score, 4)}
    if len(first) > 1 or len(second) > 1:
        found["copies"] = [len(first), len(second)]
    return found | {"texts": [items[first[0]].instruction, items[second[0]].instruction]}
