"""What a run would ask, cost and take, without a request."""

import math
import statistics
from dataclasses import dataclass

from alpaca import console
from alpaca.generation.config import GenerateConfig, prices
from alpaca.generation.requests import Requests
from alpaca.generation.tokens import by_character

_YIELD = 0.8  # share of the items asked for that become rows; the original's log gives about as much
_ROW_TOKENS = 90  # an English row with its labels
_SECONDS_PER_TOKEN = 0.015
_ENOUGH = 8  # replies that say what the next will yield
_SPARE = 0.05  # share of the requests, or one, that may turn out not to have been needed
_CERTAINTY = 2  # standard deviations by which the yield of what is asked may differ from what is expected


@dataclass(frozen=True)
class Estimate:
    """Of `requests` requests: tokens, US dollars (None: the price is waived) and minutes, each about and at most."""

    requests: int
    prompt_tokens: int
    reply_tokens: int
    most_reply_tokens: int
    usd: float | None
    most_usd: float | None
    minutes: float


def estimate(config: GenerateConfig, requests: Requests, missing: int, asked: int = 0) -> Estimate:
    """For `missing` further rows after `asked` requests."""
    prompt = requests.make(asked, []).prompts[0]
    count = math.ceil(missing / (config.source.items * _YIELD))
    if requests.last is not None:
        count = min(count, requests.last - asked)
    prompt_tokens = len(prompt) // (1 if by_character(config.language) else 4)
    reply_tokens = min(config.source.items * _ROW_TOKENS, config.teacher.max_tokens)
    usd = most = None
    if (price := prices(config.teacher)) is not None:
        usd = count * (prompt_tokens * price[0] + reply_tokens * price[1])
        most = count * (len(prompt.encode()) * price[0] + config.teacher.max_tokens * price[1])
    seconds = math.ceil(count / config.teacher.concurrency) * reply_tokens * _SECONDS_PER_TOKEN
    by_rates = [
        60 * count * amount / rate
        for amount, rate in (
            (1, config.teacher.requests_per_minute),
            (len(prompt) // 4 + config.teacher.max_tokens, config.teacher.tokens_per_minute),
        )
        if rate
    ]
    return Estimate(
        requests=count,
        prompt_tokens=count * prompt_tokens,
        reply_tokens=count * reply_tokens,
        most_reply_tokens=count * config.teacher.max_tokens,
        usd=usd,
        most_usd=most,
        minutes=max([seconds, *by_rates]) / 60,
    )


def requests_needed(missing: int, yields: list[int], items: int, applied: int, most: int) -> int:
    """How many requests after the first `applied` are to be asked for `missing` rows: 1 or more.

    `yields`: rows that the last requests gave, of `items` asked for. Some more than expected are asked, at most `most`, so
    that a few poor replies at the end need no further round, as far as no more than `_SPARE` of all should be in vain.
    """
    prior = 0 if len(yields) >= _ENOUGH and any(yields) else 2  # replies as full as they were asked to be
    expected = (sum(yields) + prior * items) / (len(yields) + prior)
    needed = max(missing, 0) / expected
    if not prior:
        deviation = statistics.pstdev(yields) / expected * math.sqrt(needed * (1 + needed / len(yields)))
        spare = max(1.0, _SPARE * (applied + needed))
        needed += min(_CERTAINTY * deviation, spare - _CERTAINTY * deviation, most)
    return max(math.ceil(needed), 1)


def say_estimate(found: Estimate) -> None:
    """One line before anything is asked, on stderr."""
    cost = "cost not counted" if found.usd is None else f"${found.usd:.2f} (at most ${found.most_usd:.2f})"
    tokens = found.prompt_tokens + found.reply_tokens
    console.say(f"about {found.requests:,} requests, {tokens:,} tokens, {cost}, {found.minutes:.1f} minutes")


def print_estimate(config: GenerateConfig, requests: Requests) -> None:
    """The first request and the figures, on stdout."""
    found = estimate(config, requests, config.num_instructions)
    print(requests.make(0, []).prompts[0])
    print("\n" + "-" * 72)
    items, flying = config.source.items, config.teacher.concurrency
    print(f"requests: about {found.requests} with {items} items each, {flying} in flight")
    replies = f"{found.reply_tokens:,} of replies (at most {found.most_reply_tokens:,})"
    print(f"tokens:   about {found.prompt_tokens:,} of prompts and {replies}")
    if found.usd is None:
        print("cost:     not known (price waived)")
    else:
        print(f"cost:     about ${found.usd:.2f}, at most ${found.most_usd:.2f} for these requests")
    print(f"time:     about {found.minutes:.1f} minutes at 15 ms a token")
    console.say("dry run: nothing was asked")
