"""Tokens of an answer as text while they come: decoded after their question, cut at stop texts, whole characters only."""

import functools
from typing import Any

from alpaca.prompts import Prompt


class Wording:
    """The text of one answer. `hears` is for `decoding.Row.heard`."""

    def __init__(self, tokenizer: Any, prompt: Prompt, question: list[int], stop: tuple[str, ...]) -> None:
        self._tokenizer, self._prompt, self._question = tokenizer, prompt, question
        self.stops = (*prompt.stop, *stop)
        self._before = tokenizer.decode(question, skip_special_tokens=True)
        self._enders = enders(tokenizer, self.stops) if self.stops else frozenset()
        self._longest = max((len(s.encode()) for s in self.stops), default=0)

    def hears(self, ids: list[int]) -> bool:
        """Whether the last token completes a stop text; only a few tokens can, and a short tail tells."""
        if not self.stops or (self._enders is not None and ids[-1] not in self._enders):
            return False
        tail = self._tokenizer.decode(ids[-self._longest - 4 :], skip_special_tokens=True)
        if not any(s in tail for s in self.stops):
            return False
        return self._cut(self.raw(ids)) is not None

    def raw(self, ids: list[int]) -> str:
        """The text of the tokens after the question, since a first space may belong to the joint."""
        whole = self._tokenizer.decode([*self._question, *ids], skip_special_tokens=True)
        if whole.startswith(self._before):
            return whole[len(self._before) :]
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _cut(self, text: str) -> int | None:
        found = [i for s in self.stops if (i := text.find(s)) >= 0]
        return min(found) if found else None

    def whole(self, ids: list[int]) -> tuple[str, bool]:
        """The answer and whether a stop text ended it."""
        text = self.raw(ids)
        end = self._cut(text)
        return self._prompt.cut(text if end is None else text[:end]), end is not None

    def so_far(self, ids: list[int]) -> str:
        """What of an unfinished answer can be shown: without half a character, and what may begin a stop text."""
        text = self.raw(ids).rstrip("\ufffd")
        end = self._cut(text)
        if end is not None:
            return self._prompt.cut(text[:end])
        for length in range(min(max(map(len, self.stops), default=0) - 1, len(text)), 0, -1):
            if any(s.startswith(text[-length:]) for s in self.stops):
                text = text[:-length]
                break
        return text.rstrip()


@functools.lru_cache(maxsize=32)
def enders(tokenizer: Any, stops: tuple[str, ...]) -> frozenset[int] | None:
    """Tokens that can complete one of `stops`: they hold a last character of theirs, or half a one. None: any token."""
    lasts = {s[-1] for s in stops}
    if any(c.isspace() for c in lasts):  # tokenizers differ in how they show a space
        return None
    return frozenset(i for i, text in enumerate(_texts(tokenizer)) if "\ufffd" in text or any(c in text for c in lasts))


@functools.lru_cache(maxsize=8)
def _texts(tokenizer: Any) -> list[str]:
    return tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
