"""Does the teacher fail on one request, or altogether? What is answered in between says so. Knows no network.

A request failed for a reason of its own when another was answered before it failed for the last time. Until one is, it is
set aside; then it is asked again, and what fails twice so has a reason of its own.
"""

import time

from alpaca.generation.teacher import Unanswered


class Failures:
    """What could not be answered so far. `aside`: requests of which it is not decided, with what was said last."""

    def __init__(self) -> None:
        self.aside: dict[int, Unanswered] = {}
        self._passed = float("-inf")
        self._since: dict[int, float] = {}

    @property
    def passed(self) -> bool:
        """Whether anything was answered in this run."""
        return self._passed > float("-inf")

    def answered(self) -> list[int]:
        """Another request was answered: those that are to be asked again now."""
        self._passed = time.monotonic()
        again = list(self.aside)
        self.aside.clear()
        return again

    def own(self, number: int, error: Unanswered) -> bool:
        """Whether a request failed for a reason of its own; else it is set aside."""
        if self._passed > self._since.get(number, error.since):
            return True
        self.aside[number] = error
        self._since[number] = time.monotonic()
        return False
