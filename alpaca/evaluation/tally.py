"""Two verdicts a question -> who won it, and what all questions come to. Knows no requests and no files."""

import random
from typing import Any

from alpaca.evaluation import preference
from alpaca.evaluation.asking import Ask, Judge


def same(row: dict[str, Any]) -> bool:
    """Whether there is nothing to judge."""
    return row["answer_a"].strip() == row["answer_b"].strip()


def order(rows: list[dict[str, Any]], seed: int) -> list[int]:
    """The rows to ask about, shuffled: where a budget ends half-way, what was judged is a fair sample."""
    numbers = [i for i, row in enumerate(rows) if not same(row)]
    random.Random(seed).shuffle(numbers)
    return numbers


def judged(rows: list[dict[str, Any]], asks: list[Ask], asked: Judge) -> list[dict[str, Any]]:
    """A line a question for verdicts.jsonl: both verdicts and what they come to.

    `outcome`: a or b where both orders prefer it; tie where they say so or disagree, or the answers are the same; null
    where a verdict is missing or cannot be read. `score`: 1, 0, one half or null.
    """
    orders: dict[int, list[dict[str, Any]]] = {i: [] for i in range(len(rows))}
    for ask in asks:
        orders[ask.number].append(_line(ask, asked))
    result = []
    for number, row in enumerate(rows):
        said = [o["verdict"] for o in orders[number]]
        end: str | None = None
        if same(row):
            end = "tie"
        elif None not in said:
            end = said[0] if said[0] == said[1] else "tie"
        score = {"a": 1.0, "b": 0.0, "tie": 0.5, None: None}[end]
        result.append({**row, "outcome": end, "score": score, "orders": orders[number]})
    return result


def _line(ask: Ask, asked: Judge) -> dict[str, Any]:
    """One verdict, in terms of the sides, with what the judge wrote."""
    found = asked.reply(ask)
    verdict, entry = found or (None, {})
    if verdict:
        state = "read"
    elif asked.key(ask) in asked.too_long:
        state = "too long"
    elif not entry:
        state = "not asked"
    else:
        state = "refused" if entry["finish_reason"] == "content_filter" else "unreadable"
    winner = {"first": ask.first, "second": "b" if ask.first == "a" else "a", "tie": "tie", None: None}[verdict]
    kept = {k: entry.get(k) for k in ("model", "usd", "finish_reason", "text")}
    return {"first": ask.first, "verdict": winner, "state": state, **kept}


def figures(lines: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """What the lines of verdicts.jsonl come to."""
    scores = [r["score"] for r in lines if r["score"] is not None]
    pairs = [[o["verdict"] == o["first"] if o["verdict"] in ("a", "b") else None for o in r["orders"]] for r in lines if r["score"] is not None and r["orders"]]  # fmt: skip
    both, decided = len(pairs), [p for r in pairs for p in r if p is not None]
    states = [o["state"] for r in lines for o in r["orders"]]
    uneven = [(len(r["answer_a"]) > len(r["answer_b"])) == (r["outcome"] == "a") for r in lines if r["outcome"] in ("a", "b") and len(r["answer_a"]) != len(r["answer_b"])]  # fmt: skip
    return {
        "questions": len(lines),
        **preference.figures(scores, seed),
        "position_bias": {
            "judged_in_both_orders": both,
            "first_preferred_in_both": sum(p == [True, True] for p in pairs),
            "second_preferred_in_both": sum(p == [False, False] for p in pairs),
            "first_preferred_share": sum(decided) / len(decided) if decided else None,
        },
        "tie_in_one_order": sum((None in p) and p != [None, None] for p in pairs),
        "identical_answers": sum(same(r) for r in lines),
        "verdicts": {s: states.count(s) for s in ("read", "unreadable", "refused", "too long", "not asked")},
        "longer_answer_won_share": sum(uneven) / len(uneven) if uneven else None,
        "mean_characters": [sum(len(r[f"answer_{s}"]) for r in lines) / len(lines) for s in "ab"],
        "categories": preference.by_category(
            [(r["category"], r["score"]) for r in lines if r["score"] is not None], seed
        ),  # fmt: skip
    }
