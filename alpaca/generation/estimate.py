"""What a run would ask, cost and take, without a request."""

import math

from alpaca import console
from alpaca.generation.config import GenerateConfig, prices
from alpaca.generation.requests import Requests
from alpaca.generation.tokens import by_character

_YIELD = 0.8  # share of the items asked for that become rows; the original's log gives about as much
_ROW_TOKENS = 90  # an English row with its labels
_SECONDS_PER_TOKEN = 0.015


def print_estimate(config: GenerateConfig, requests: Requests) -> None:
    """The first request and the figures, on stdout."""
    prompt = requests.make(0, []).prompts[0]
    count = math.ceil(config.num_instructions / (config.source.items * _YIELD))
    if requests.last is not None:
        count = min(count, requests.last)
    prompt_tokens = len(prompt) // (1 if by_character(config.language) else 4)
    reply_tokens = min(config.source.items * _ROW_TOKENS, config.teacher.max_tokens)
    price = prices(config.teacher)
    print(prompt)
    print("\n" + "-" * 72)
    print(f"requests: about {count} with {config.source.items} items each, {config.teacher.concurrency} in flight")
    print(
        f"tokens:   about {count * prompt_tokens:,} of prompts and {count * reply_tokens:,} of replies (at most {count * config.teacher.max_tokens:,})"
    )
    if price is None:
        print("cost:     not known (price waived)")
    else:
        about = count * (prompt_tokens * price[0] + reply_tokens * price[1])
        worst = count * (len(prompt.encode()) * price[0] + config.teacher.max_tokens * price[1])
        print(f"cost:     about ${about:.2f}, at most ${worst:.2f} for these requests")
    seconds = math.ceil(count / config.teacher.concurrency) * reply_tokens * _SECONDS_PER_TOKEN
    rate = config.teacher.requests_per_minute
    print(f"time:     about {max(seconds, 60 * count / rate if rate else 0) / 60:.1f} minutes at 15 ms a token")
    console.say("dry run: nothing was asked")
