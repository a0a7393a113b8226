"""Blind votes: which pair a voter sees next, on which side each answer stands, and what all votes come to.

Every vote is a line of votes.jsonl, on disk before the next pair is shown. Knows no page.
"""

import hashlib
import itertools
import random
import threading
import time
from pathlib import Path
from typing import Any

from alpaca.evaluation import preference
from alpaca.generation.journal import Journal

CHOICES = ("left", "right", "tie", "bad", "skip")


class Votes:
    """The votes on `rows` (questions with `answer_a` and `answer_b`), those of earlier calls included."""

    def __init__(self, path: Path, rows: list[dict[str, Any]], seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.numbers = [i for i, r in enumerate(rows) if r["answer_a"].strip() != r["answer_b"].strip()]
        self._keys = {_key(row): i for i, row in enumerate(rows)}
        self._journal = Journal(path, "hydra.run.dir=DIR")
        self._guard = threading.Lock()
        self._last: dict[tuple[str, int], dict[str, Any]] = {}  # (voter, question) -> the vote that counts
        for entry in self._journal.entries:
            self._take(entry)

    def close(self) -> None:
        """Give the file back."""
        self._journal.close()

    def _take(self, entry: dict[str, Any]) -> None:
        number = self._keys.get(entry.get("key", ""))
        if entry["kind"] == "vote" and number is not None:  # not of answers that have changed since
            self._last[entry["voter"], number] = entry

    def next(self, voter: str) -> int | None:
        """The first question of a voter's order that he has not seen; None at the end."""
        return next((n for n in self.order(voter) if (voter, n) not in self._last), None)

    def order(self, voter: str) -> list[int]:
        """Each voter has an order of his own, so that few votes of many people cover the questions."""
        return random.Random(f"{self.seed} {voter}").sample(self.numbers, len(self.numbers))

    def left(self, voter: str, number: int) -> str:
        """The side (a or b) whose answer stands on the left."""
        return random.Random(f"{self.seed} {voter} {_key(self.rows[number])}").choice("ab")

    def done(self, voter: str) -> int:
        """How many questions a voter has voted on or skipped."""
        return sum(v == voter for v, _ in self._last)

    def latest(self, voter: str) -> int | None:
        """The question a voter voted on last."""
        mine = [(entry["time"], n) for (v, n), entry in self._last.items() if v == voter]
        return max(mine)[1] if mine else None

    def vote(self, voter: str, number: int, choice: str) -> None:
        """Append a vote; a later one of the same voter on the same question takes the earlier one's place."""
        assert choice in CHOICES
        left = self.left(voter, number)
        sides = {"left": left, "right": "b" if left == "a" else "a"}
        entry = {
            "kind": "vote", "voter": voter, "question": number + 1, "key": _key(self.rows[number]), "left": left,
            "choice": choice, "vote": sides.get(choice, choice), "time": round(time.time(), 3),
        }  # fmt: skip
        with self._guard:
            self._journal.append(entry)
            self._take(entry)

    def figures(self) -> dict[str, Any]:
        """A score a question is the mean over its voters; both bad is a tie, a question that was skipped is left out."""
        counted = [(v, n, e["vote"]) for (v, n), e in sorted(self._last.items(), key=lambda i: i[0]) if e["vote"] != "skip"]  # fmt: skip
        groups: dict[int, list[float]] = {}
        for _, number, said in counted:
            groups.setdefault(number, []).append(_SCORE[said])
        scores = {n: sum(s) / len(s) for n, s in sorted(groups.items())}
        said = [e["vote"] for e in self._last.values()]
        voters = sorted({v for v, _ in self._last})
        return {
            "questions": len(self.rows),
            **preference.figures(list(scores.values()), self.seed),
            "votes": len(counted),
            "both_bad": said.count("bad"),
            "skipped": said.count("skip"),
            "identical_answers": len(self.rows) - len(self.numbers),
            "left_preferred_share": _share(
                [e["choice"] == "left" for e in self._last.values() if e["choice"] in ("left", "right")]
            ),  # fmt: skip
            "voters": {v: preference.figures([_SCORE[s] for w, _, s in counted if w == v], self.seed) for v in voters},
            "agreement": agreement(counted),
            "categories": preference.by_category([(self.rows[n]["category"], s) for n, s in scores.items()], self.seed),
        }


_SCORE = {"a": 1.0, "b": 0.0, "tie": 0.5, "bad": 0.5}


def _share(values: list[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _key(row: dict[str, Any]) -> str:
    """What a pair of answers is known by: votes on answers that have changed since do not count."""
    parts = (row["instruction"], row["input"], row["answer_a"], row["answer_b"])
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:16]


def agreement(counted: list[tuple[str, int, str]]) -> list[dict[str, Any]]:
    """For each two voters the questions both voted on, the share with the same winner, and Cohen's kappa.

    kappa is the agreement beyond chance, (p - e) / (1 - e), with e from each one's own shares of a, b and tie.
    """
    votes: dict[str, dict[int, float]] = {}
    for voter, number, said in counted:
        votes.setdefault(voter, {})[number] = _SCORE[said]
    result = []
    for one, two in itertools.combinations(sorted(votes), 2):
        both = sorted(votes[one].keys() & votes[two].keys())
        if not both:
            continue
        x, y = [votes[one][n] for n in both], [votes[two][n] for n in both]
        same = sum(p == q for p, q in zip(x, y, strict=True)) / len(both)
        chance = sum(x.count(s) * y.count(s) for s in (0.0, 0.5, 1.0)) / len(both) ** 2
        kappa = (same - chance) / (1 - chance) if chance < 1 else None
        result.append({"voters": [one, two], "questions": len(both), "same": same, "kappa": kappa})
    return result
