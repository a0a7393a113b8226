"""Which request is about which passage, also while files are added to a corpus, changed, or taken away.

A number never changes its meaning: what was answered keeps it. Over a corpus that stays as it was, the order is a
function of the passages and the seed. When it changes, what was answered before stays in front, also where its passage
is gone; then come the passages in the order of the new corpus, as often as they were not asked about yet. The journal
says when that was, so that a run that is interrupted goes on in the same order. Knows no prompts and no teacher.
"""

import hashlib
import random
from typing import Any

from alpaca.generation.corpus import Passage


class Order:
    """The requests about `passages`, each asked about `rounds` times."""

    def __init__(self, passages: list[Passage], rounds: int, seed: int) -> None:
        self.passages, self.rounds = passages, rounds
        self._places = {p.key: i for i, p in enumerate(passages)}
        self._shuffled = random.Random(f"passages {seed}").sample(range(len(passages)), len(passages))
        self._begun: list[tuple[int, int] | None] = []  # request -> place of the passage and round, while out of order
        self._whole = 0  # the first round of which nothing was asked yet, then
        self.once = len(passages)  # after so many requests each passage was asked about
        self.gone: set[int] = set()  # requests without a passage
        self.answered = self.lost = 0  # replies before the last change, and those about passages that are no more

    @property
    def key(self) -> str | None:
        """Of the whole corpus; None without one."""
        texts = "\0".join(p.text for p in self.passages)
        return hashlib.sha256(texts.encode("utf-8", "replace")).hexdigest()[:16] if texts else None

    @property
    def last(self) -> int:
        """How many requests there can be."""
        return len(self._begun) + len(self.passages) * max(self.rounds - self._whole, 0)

    def item(self, number: int) -> tuple[int, int] | None:
        """Place of the passage of a request, and how often it was asked about before; None: the passage is gone."""
        if number < len(self._begun):
            return self._begun[number]
        whole, at = divmod(number - len(self._begun), len(self.passages))
        return self._shuffled[at], self._whole + whole

    def follow(self, entries: list[dict[str, Any]]) -> None:
        """Go on where a journal is. Replies must name their passage, see `name_passages`."""
        before = entries[: _unchanged_since(entries, self.key)]
        ends = [e for e in before if e["kind"] in ("reply", "failed")]
        asked = {e["request"]: (e.get("passage"), e.get("round", 0)) for e in ends}
        if not asked:
            return
        there = {e["request"]: e.get("passage") in self._places for e in ends if e["kind"] == "reply"}
        self.answered, self.lost, before_now = len(there), len(there) - sum(there.values()), max(asked) + 1
        for number in range(before_now):
            passage, times = asked.get(number, (None, 0))
            self._begun.append((self._places[passage], times) if passage in self._places else None)
        self.gone = {number for number, item in enumerate(self._begun) if item is None}
        done = {item for item in self._begun if item}
        self._whole = 1 + max((times for _, times in done), default=-1)
        for times in range(min(self._whole, self.rounds)):
            self._begun += [(place, times) for place in self._shuffled if (place, times) not in done]
            if times == 0:
                self.once = len(self._begun)
        if not self._whole:
            self.once = before_now + len(self.passages)


def _unchanged_since(entries: list[dict[str, Any]], key: str | None) -> int:
    """The first entry of the journal that belongs to the corpus of now; 0 where it was never changed."""
    changed, since = False, len(entries)
    for number in range(len(entries) - 1, -1, -1):
        if entries[number]["kind"] == "run":
            if entries[number].get("passages") != key:
                changed = True
                break
            since = number
    return since if changed else 0


def name_passages(entries: list[dict[str, Any]], order: Order) -> dict[str, Any] | None:
    """Give each reply of an early journal, which has the number of its passage, that passage's key.

    Returns an entry that says so for when the corpus was changed; None where there is one, or nothing to be said.
    """
    early = [e for e in entries if e["kind"] == "reply" and isinstance(e.get("passage"), int)]
    if not early:
        return None
    known = next((e for e in entries if e["kind"] == "passages"), None)
    run = next((e for e in entries if e["kind"] == "run"), {})
    if known is None and run.get("passages") != order.key:
        return None
    keys = known["keys"] if known else [p.key for p in order.passages]
    for entry in early:
        entry["round"] = entry["request"] // len(keys)
        entry["passage"] = keys[entry["passage"]]
    return None if known else {"kind": "passages", "keys": keys}
