"""Which of two models is preferred, and how sure that is: from scores of questions to figures and a sentence.

A score is 1 where A won the question, 0 where B did, one half for a tie. Knows no judge, no votes and no files.
"""

import math
from collections.abc import Sequence
from typing import Any

from alpaca.evaluation.instructions import interval

FEWEST = 5
"""Below so many questions a bootstrap interval says nothing."""


def figures(scores: Sequence[float], seed: int) -> dict[str, Any]:
    """Wins, ties and losses of A, its win rate (ties as half) with a bootstrap 95 % interval, and a sign test."""
    wins, losses = sum(s > 0.5 for s in scores), sum(s < 0.5 for s in scores)
    count = len(scores)
    return {
        "judged": count,
        "wins": wins,
        "ties": count - wins - losses,
        "losses": losses,
        "win_rate": sum(scores) / count if count else None,
        "win_rate_95": interval(scores, seed) if count >= FEWEST else None,
        "sign_test_p": sign_test(wins, losses),
    }


def sign_test(wins: int, losses: int) -> float:
    """The chance of a split at least as uneven between equals (two-sided, exact; ties left out)."""
    n, few = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, k) for k in range(few + 1))
    return min(1.0, 2 * tail / 2**n) if n else 1.0


def by_category(rows: Sequence[tuple[str, float]], seed: int) -> dict[str, dict[str, Any]]:
    """Figures of each category that has a name, the largest first."""
    groups: dict[str, list[float]] = {}
    for category, score in rows:
        if category:
            groups.setdefault(category, []).append(score)
    return {c: figures(s, seed) for c, s in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0]))}


def sentence(a: str, b: str, found: dict[str, Any], asked: int) -> str:
    """Whether A is better than B, and how sure that is, in one line."""
    count, rate, span = found["judged"], found["win_rate"], found["win_rate_95"]
    if not count:
        return f"Nothing is known of {a} and {b}: no question was judged"
    over = f"{count:,} question{'s' * (count > 1)}" if count == asked else f"{count:,} of {asked:,} questions"
    how = f"win rate {100 * rate:.1f} % over {over}"
    how += f" (95 % interval {100 * span[0]:.1f} to {100 * span[1]:.1f} %; ties count half)" if span else ""
    sure = span is not None and found["sign_test_p"] < 0.05
    if sure and span[0] > 0.5:
        return f"{a} is better than {b}: {how}"
    if sure and span[1] < 0.5:
        return f"{a} is worse than {b}: {how}"
    return f"No difference is shown between {a} and {b}: {how}"


def needed(scores: Sequence[float]) -> int | None:
    """About how many questions would show the difference seen, if it is real; None where there is none to show."""
    count = len(scores)
    mean = sum(scores) / count if count else 0.5
    if count < FEWEST or abs(mean - 0.5) < 0.01:
        return None
    spread = sum((s - mean) ** 2 for s in scores) / count
    return math.ceil(1.96**2 * spread / (mean - 0.5) ** 2)


def row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table under `HEAD`."""
    span = found["win_rate_95"]
    return (
        name,
        f"{found['judged']:,}",
        f"{found['wins']:,}",
        f"{found['ties']:,}",
        f"{found['losses']:,}",
        "–" if found["win_rate"] is None else f"{100 * found['win_rate']:.1f} %",
        f"{100 * span[0]:.1f} to {100 * span[1]:.1f} %" if span else "–",
    )


HEAD = ("", "questions", "wins", "ties", "losses", "win rate", "95 % interval")


def picture(total: dict[str, Any], categories: dict[str, dict[str, Any]], a: str, b: str) -> Any:
    """Left: wins, ties and losses; right: the win rate with its interval, against one half. All, then 20 categories."""
    from alpaca.generation.pictures import figure

    rows = [("all", total), *list(categories.items())[:20]]
    made, (left, right) = figure(ncols=2, width=11, height=1.5 + 0.32 * len(rows))
    names = [name[:40] for name, _ in rows]
    places, start = list(range(len(rows))), [0.0] * len(rows)
    for key, label, colour in (
        ("wins", f"{a[-40:]} wins", "#4477aa"),
        ("ties", "tie", "#cccccc"),
        ("losses", f"{b[-40:]} wins", "#cc6677"),
    ):
        widths = [100 * f[key] / max(f["judged"], 1) for _, f in rows]
        left.barh(places, widths, left=start, color=colour, label=label)
        start = [s + w for s, w in zip(start, widths, strict=True)]
    left.set(yticks=places, yticklabels=names, xlabel="% of questions", xlim=(0, 100))
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8, frameon=False)
    for place, (_, f) in zip(places, rows, strict=True):
        if f["win_rate_95"]:
            right.plot([100 * x for x in f["win_rate_95"]], [place, place], color="#4477aa", linewidth=2)
        if f["win_rate"] is not None:
            right.plot(100 * f["win_rate"], place, "o", color="#4477aa")
    right.axvline(50, color="#888888", linewidth=1, linestyle="--")
    right.set(yticks=places, yticklabels=[""] * len(rows), xlabel="win rate with 95 % interval, %", xlim=(0, 100))
    for axes in (left, right):
        axes.set_ylim(len(rows) - 0.5, -0.5)
    return made
