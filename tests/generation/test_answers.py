"""Which requests are asked again: the same ones in whatever order the replies come, and after any interruption."""

import random
from typing import Any

from alpaca.generation.answers import Answers
from alpaca.generation.rows import Wanting


def reply(number: int, attempt: int, rng: random.Random) -> tuple[dict[str, Any], Wanting]:
    """Now and then cut or unreadable; from the 12th request on a server with a limit of its own."""
    drawn = random.Random(f"{number} {attempt}").random()
    why: Wanting = "cut" if number >= 12 or drawn < 0.3 else "unread" if drawn < 0.4 else None
    tokens = 300 + number % 5 if number >= 12 else rng.choice([40, 200, 900])
    entry = {"request": number, "ticket": 10 * number + attempt, "model": "m", "max_tokens": 3000, "usage": [9, tokens]}
    return entry, why


def attempts(rng: random.Random, killed: float) -> dict[int, int]:
    """Attempts at each of 20 requests, 6 in flight, replies in any order; now and then begun anew from what was saved."""
    saved: list[tuple[dict[str, Any], Wanting]] = []
    while True:
        answers, again, asked = Answers(reask=4), list[int](), 0
        answers.replay(*zip(*saved, strict=True) if saved else ([], []))
        flying: list[int] = []
        while True:
            while len(flying) < 6 and (again or asked < 20):
                if again:
                    flying.append(again.pop(0))
                elif answers.to_ask(asked):
                    flying.append(asked)
                    asked += 1
                else:
                    asked += 1
            if not flying:
                assert all(answers.complete(n) for n in range(20))
                return {n: len(answers.of(n)) for n in range(20)}
            number = flying.pop(rng.randrange(len(flying)))
            tried = len(answers.of(number)) if number in answers else 0
            saved.append(reply(number, tried, random.Random(f"{number} {tried}")))
            if rng.random() < killed:
                break
            again += answers.add([saved[-1][0]], [saved[-1][1]])


def test_order_and_interruptions_change_nothing() -> None:
    whole = attempts(random.Random(0), 0.0)
    for seed in range(60):
        assert attempts(random.Random(seed), 0.1 * (seed % 2)) == whole
    assert max(whole.values()) > 1 and all(whole[n] == 1 for n in range(14, 20)), "the limit was not learned"
