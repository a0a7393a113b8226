"""How far a run is, for a person: a bar in a terminal, a line now and then in a log. Knows no requests and no rows."""

import sys
import time
from pathlib import Path

from alpaca import console
from alpaca.generation.budget import Spent

_EVERY = 10.0  # seconds between two lines of a log


class Progress:
    """Rows kept (or what `unit` says) of those wanted, with what was spent so far."""

    def __init__(self, wanted: int, unit: str = "row") -> None:
        from tqdm import tqdm

        self.wanted, self.unit, self._said = wanted, unit, 0.0
        self._bar = tqdm(total=wanted, unit=unit, disable=None, leave=True, file=sys.stderr)

    def show(self, kept: int, replies: int, spent: Spent) -> None:
        """The state of now; as often as one likes."""
        tokens = spent.prompt_tokens + spent.completion_tokens
        text = f"{replies:,} replies · {spent.requests:,} requests · {tokens:,} tokens · ${spent.usd:.4f}"
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(kept - self._bar.n)
        elif time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            console.say(f"{kept:,}/{self.wanted:,} {self.unit}s · {text}")

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


class Reading:
    """How much of a corpus was read, in bytes of `total`."""

    def __init__(self, path: Path, files: int, total: int) -> None:
        from tqdm import tqdm

        self.path, self.total, self._said = path, total, time.monotonic()
        console.say(f"reading {path}: {files:,} files, {total / 1e6:.1f} MB")
        self._bar = tqdm(total=total, unit="B", unit_scale=True, disable=None, leave=False, file=sys.stderr)

    def show(self, done: int, passages: int) -> None:
        """The state of now; as often as one likes."""
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{passages:,} passages", refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            console.say(f"{done / 1e6:.1f}/{self.total / 1e6:.1f} MB of {self.path} read · {passages:,} passages")

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
