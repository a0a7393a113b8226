"""The replies so far, by request, and which requests want another one.

What is asked again depends on the replies alone, not on when they came or whether the run was interrupted. Knows no teacher.
"""

from collections.abc import Sequence, Set
from itertools import islice
from typing import Any

from alpaca import console
from alpaca.generation.rows import Wanting

_ALIKE = 3  # replies cut at one length, in a row, that show a limit of the server


class Answers:
    """Replies as the journal holds them, each judged (`Rows.wanting`) when it is added; a request gets `reask` + 1 at most.

    `gone`: requests that are not asked any more, whatever was replied.
    """

    def __init__(self, reask: int, gone: Set[int] = frozenset()) -> None:
        self.reask, self.gone = reask, gone
        self._replies: dict[int, list[dict[str, Any]]] = {}
        self._wanting: dict[int, Wanting] = {}  # by ticket
        self._undecided: set[int] = (
            set()
        )  # requests whose reply was cut, perhaps as those before that are not there yet
        self._said_limit = False

    def __contains__(self, number: int) -> bool:
        return number in self._replies

    def of(self, number: int) -> list[dict[str, Any]]:
        """The replies to a request, in the order in which they came."""
        return self._replies.get(number, [])

    def replay(self, replies: Sequence[dict[str, Any]], wanting: Sequence[Wanting]) -> None:
        """Replies of earlier runs; what they leave to ask is found when their request's turn comes."""
        for reply, why in zip(replies, wanting, strict=True):
            self._replies.setdefault(reply["request"], []).append(reply)
            self._wanting[reply["ticket"]] = why

    def add(self, replies: Sequence[dict[str, Any]], wanting: Sequence[Wanting]) -> list[int]:
        """Replies to requests that were sent. Returns those that are to be sent again, as far as that is decided by now."""
        self.replay(replies, wanting)
        touched = {reply["request"] for reply in replies} | self._undecided
        return [number for number in sorted(touched) if self.to_ask(number)]

    def after(self, number: int) -> bool:
        """Whether there is a reply to any later request."""
        return any(n > number for n in self._replies)

    def complete(self, number: int) -> bool:
        """Whether a request needs no further attempt: something could be read, or it was asked often enough."""
        replies = self._replies.get(number, [])
        if number in self.gone:
            return True
        if not replies or len(replies) > self.reask:
            return bool(replies)
        why = self._wanting[replies[-1]["ticket"]]
        return why is None or why == "cut" and self._limited(number) is True

    def to_ask(self, number: int) -> bool:
        """Whether to send a request, anew or again. One that is not decided on is returned by `add` when it is."""
        self._undecided.discard(number)
        if self.complete(number):
            return False
        replies = self._replies.get(number)
        if replies and self._wanting[replies[-1]["ticket"]] == "cut" and self._limited(number) is None:
            self._undecided.add(number)
            return False
        return True

    def _limited(self, number: int) -> bool | None:
        """Whether a reply was cut where the server cuts every one; None: the requests before must be answered first.

        So it is when the attempts at this request and the first ones at those before it, `_ALIKE` in a row, ended alike.
        """
        own = self._replies[number]
        there = (n for n in range(number - 1, -1, -1) if n in self._replies or n not in self.gone)
        before = [self._replies.get(n, [None])[0] for n in islice(there, _ALIKE - 1)]
        length = own[-1]["usage"][1]
        for seen, reply in enumerate([*reversed(own), *before], 1):
            if reply is None:
                return None
            if self._wanting[reply["ticket"]] != "cut" or abs(reply["usage"][1] - length) > 0.1 * length:
                return False
            if seen == _ALIKE:
                self._say_limit(own[-1])
                return True
        return False

    def _say_limit(self, reply: dict[str, Any]) -> None:
        if not self._said_limit:
            self._said_limit = True
            console.warn(
                f"{reply['model']} ends its replies after about {reply['usage'][1]} tokens, though teacher.max_tokens={reply['max_tokens']} were allowed: they are taken as they come, without the item that is cut; lower source.items so that all of them fit"
            )
