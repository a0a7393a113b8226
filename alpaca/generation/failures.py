"""Does the teacher fail on one request, or altogether? What is answered in between says so. Knows no network.

A request failed for a reason of its own when another was sent and answered while it was tried again and again. Else it is
set aside until another one that was sent later is answered; then it is asked again, and what fails twice so has a reason of
its own. What was sent earlier shows nothing: a key whose credit ends in between is still answered that, and so is what is
in flight when a server takes no more.
"""

import time

from alpaca.generation.teacher import Unanswered


class Failures:
    """What could not be answered so far. `aside`: requests of which it is not decided, with what was said last."""

    def __init__(self) -> None:
        self.aside: dict[int, Unanswered] = {}
        self._sent = float("-inf")  # when that was sent of what was answered which was sent last
        self._since: dict[int, float] = {}

    @property
    def passed(self) -> bool:
        """Whether anything was answered in this run."""
        return self._sent > float("-inf")

    def answered(self, sent: float) -> list[int]:
        """Another request, sent at `sent` of `time.monotonic`, was answered: those that are to be asked again now."""
        self._sent = max(self._sent, sent)
        again = [number for number in self.aside if self._since[number] <= self._sent]
        for number in again:
            del self.aside[number]
        return again

    def own(self, number: int, error: Unanswered) -> bool:
        """Whether a request failed for a reason of its own; else it is set aside."""
        since = self._since.get(number)
        if self._sent >= (error.since if since is None else since):
            return True
        self.aside[number] = error
        self._since[number] = time.monotonic()
        return False
