"""What was spent, what may still be spent, and how fast: hard caps that hold with requests in flight.

Before a request is sent its worst case is set aside; the API's own `usage` replaces it. A request whose answer was lost
may have been billed, so that its worst case stays set aside. Knows no requests.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from alpaca.generation.config import BudgetConfig

_APART = 0.005  # seconds between two requests: sent together they come back together, and then wait for each other


class BudgetReached(Exception):
    """No further request fits under a cap; the message says which."""


@dataclass
class Spent:
    """Requests sent, tokens and dollars as the API counted them, and what lost answers may have cost besides."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    lost_tokens: int = 0
    lost_usd: float = 0.0
    uncounted: int = 0
    """Replies that came without `usage`: their worst case stands for it."""


class Budget:
    """Caps over everything in a journal."""

    def __init__(self, config: BudgetConfig, prices: tuple[float, float] | None) -> None:
        self.config, self.prices, self.spent = config, prices, Spent()
        self._flying: dict[int, tuple[int, float]] = {}
        self._changed = asyncio.Condition()
        self._next = 0

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars; 0 where the price is waived."""
        price = self.prices or (0.0, 0.0)
        return prompt_tokens * price[0] + completion_tokens * price[1]

    def replay(self, entries: list[dict[str, Any]]) -> None:
        """Count what earlier runs spent, from their journal. A request that has no end there may have been billed."""
        open_requests: dict[int, tuple[int, int]] = {}
        for entry in entries:
            if entry["kind"] == "sent":
                self.spent.requests += 1
                self._next = max(self._next, entry["ticket"])
                open_requests[entry["ticket"]] = entry["worst"]
            elif entry["kind"] == "failed":
                self._next = max(self._next, entry["ticket"])
            elif entry["kind"] in ("free", "reply", "probe"):
                open_requests.pop(entry["ticket"], None)
            if entry["kind"] in ("reply", "probe"):
                self.spent.prompt_tokens += entry["usage"][0]
                self.spent.completion_tokens += entry["usage"][1]
                self.spent.usd += entry["usd"]
                self.spent.uncounted += entry["estimated"]
        self.spent.lost_tokens += sum(map(sum, open_requests.values()))
        self.spent.lost_usd += sum(self.cost(*worst) for worst in open_requests.values())

    @property
    def last_ticket(self) -> int:
        """Of the newest request."""
        return self._next

    def new_ticket(self) -> int:
        """A number for what is told of a request without sending it."""
        self._next += 1
        return self._next

    async def reserve(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Set a worst case aside, waiting for requests in flight where only they stand in the way.

        Returns a ticket for `settle`. Raises BudgetReached.
        """
        tokens, usd = prompt_tokens + completion_tokens, self.cost(prompt_tokens, completion_tokens)
        async with self._changed:
            while problem := self._problem(tokens, usd):
                if not self._flying or self.spent_out():
                    raise BudgetReached(problem)
                await self._changed.wait()
            self._next += 1
            self._flying[self._next] = (tokens, usd)
            self.spent.requests += 1
            return self._next

    async def settle(self, ticket: int, usage: tuple[int, int] | None, billed: bool = True) -> None:
        """The end of a request: its usage, or None when the answer was lost (`billed`: it may have cost something)."""
        async with self._changed:
            tokens, usd = self._flying.pop(ticket)
            if usage is not None:
                self.spent.prompt_tokens += usage[0]
                self.spent.completion_tokens += usage[1]
                self.spent.usd += self.cost(*usage)
            elif billed:
                self.spent.lost_tokens += tokens
                self.spent.lost_usd += usd
            self._changed.notify_all()

    def spent_out(self) -> bool:
        """Whether the cap on requests is reached: nothing in flight gives one back."""
        return self.config.max_requests is not None and self.spent.requests >= self.config.max_requests

    def _problem(self, tokens: int, usd: float) -> str | None:
        config, spent, flying = self.config, self.spent, self._flying.values()
        if self.spent_out():
            return f"budget.max_requests={config.max_requests} is reached"
        used = spent.prompt_tokens + spent.completion_tokens + spent.lost_tokens + sum(t for t, _ in flying)
        if config.max_tokens is not None and used + tokens > config.max_tokens:
            return f"budget.max_tokens={config.max_tokens} leaves no room for a request of at most {tokens} tokens ({used} used{self._lost()})"
        dollars = spent.usd + spent.lost_usd + sum(d for _, d in flying)
        if config.max_usd is not None and dollars + usd > config.max_usd + 1e-12:
            return f"budget.max_usd={config.max_usd:g} leaves no room for a request of at most ${usd:.4f} (${dollars:.4f} used{self._lost()})"
        return None

    def _lost(self) -> str:
        return ", lost answers at their worst included" if self.spent.lost_tokens else ""


class Pacer:
    """Spreads requests evenly so that neither rate limit is passed."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self.requests, self.tokens = requests_per_minute, tokens_per_minute
        self._free = 0.0

    def delay(self, tokens: int) -> float:
        """Seconds until a request of about so many tokens may be sent; its place is then taken."""
        gap = 60 / self.requests if self.requests else 0.0
        gap = max(gap, 60 * tokens / self.tokens if self.tokens else 0.0, _APART)
        now = time.monotonic()
        at = max(now, self._free)
        self._free = at + gap
        return at - now
