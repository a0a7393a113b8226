"""What a judge would be asked and would cost, before the first request."""

import math
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.evaluation import asking, sides, tally
from alpaca.evaluation.config import EvaluateConfig
from alpaca.generation.config import prices

SECONDS_PER_TOKEN = 0.015
REPLY_TOKENS = 200
"""What a comparison in a few sentences comes to."""


def say(config: EvaluateConfig, asked: asking.Judge, asks: list[asking.Ask]) -> None:
    """One line on stderr."""
    waiting = [a for a in asks if asked.wanting(a)]
    if waiting:
        about, most, minutes = _cost(config, [a.prompt for a in waiting], [a.prompt for a in waiting])
        cost = "cost not counted" if about is None else f"${about:.2f} (at most ${most:.2f})"
        console.say(f"about {len(waiting):,} requests to {config.teacher.model}, {cost}, {minutes:.1f} minutes")


def _cost(config: EvaluateConfig, prompts: list[str], longest: list[str]) -> tuple[float | None, float | None, float]:
    """US dollars about and at most (None: the price is waived), and minutes."""
    teacher = config.teacher
    reply = min(REPLY_TOKENS, teacher.max_tokens)
    minutes = math.ceil(len(prompts) / teacher.concurrency) * reply * SECONDS_PER_TOKEN / 60
    if teacher.requests_per_minute:
        minutes = max(minutes, len(prompts) / teacher.requests_per_minute)
    if (price := prices(teacher)) is None:
        return None, None, minutes
    about = sum(_tokens(p) * price[0] + reply * price[1] for p in prompts)
    most = sum(len(p.encode()) * price[0] + teacher.max_tokens * price[1] for p in longest)
    return about, most, minutes


def _tokens(text: str) -> int:
    """About how many tokens a text has: four ASCII characters make one, any other character is one."""
    plain = sum(c.isascii() for c in text)
    return plain // 4 + len(text) - plain


def show(config: EvaluateConfig, pair: tuple[sides.Side, sides.Side], questions: list[dict[str, Any]], template: asking.Template, asked: asking.Judge, run_dir: Path) -> None:  # fmt: skip
    """The first request and the figures, on stdout. No model is loaded: answers that are not there yet are guessed at."""
    said = [sides.known(side, questions, config, run_dir) for side in pair]
    unknown = [side.name for side, texts in zip(pair, said, strict=True) if texts is None]
    guessed = [[_answer(texts, i, len(q["output"]) or 400) for i, q in enumerate(questions)] for texts in said]
    longest = [[_answer(texts, i, 4 * config.max_new_tokens) for i in range(len(questions))] for texts in said]
    rows, most_rows = ([{**q, "answer_a": a, "answer_b": b} for q, a, b in zip(questions, *g, strict=True)] for g in (guessed, longest))  # fmt: skip
    numbers = list(range(len(rows))) if unknown else tally.order(rows, config.seed)
    asks = asking.both_orders(template, rows, numbers)
    most = asking.both_orders(template, most_rows, numbers)
    keep = [i for i, a in enumerate(asks) if unknown or asked.wanting(a)]
    about, at_most, minutes = _cost(config, [asks[i].prompt for i in keep], [most[i].prompt for i in keep])
    if asks:
        print(template.fill(rows[numbers[0]], *("…" if t is None else t[numbers[0]] for t in said)))
    print("-" * 72)
    print(f"requests: {len(keep):,} ({len(questions):,} questions x 2 orders = {2 * len(questions):,})")
    identical = len(rows) - len(numbers)
    if identical or len(asks) > len(keep):
        print(f"          not asked: {identical} questions with identical answers, {len(asks) - len(keep)} verdicts that are there already")  # fmt: skip
    tokens = sum(_tokens(asks[i].prompt) for i in keep)
    print(f"tokens:   about {tokens:,} of prompts and {REPLY_TOKENS * len(keep):,} of replies (at most {config.teacher.max_tokens * len(keep):,})")  # fmt: skip
    print("cost:     not known (price waived)" if about is None else f"cost:     about ${about:.2f}, at most ${at_most:.2f} for these requests")  # fmt: skip
    print(f"time:     about {minutes:.1f} minutes at 15 ms a token")
    if unknown:
        console.say(f"{' and '.join(unknown)} would answer first; answers are taken to be as long as the references")
    console.say("dry run: nothing was asked")


def _answer(texts: list[str] | None, number: int, length: int) -> str:
    return texts[number] if texts is not None else "x" * length
