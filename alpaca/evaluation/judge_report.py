"""The page of a comparison, and the notes under its table: what a reader should know before believing the figure."""

from typing import Any

from alpaca.evaluation import preference
from alpaca.page import Page

_BIASED = 0.3
"""Share of questions decided by position alone above which a judge's verdict says little."""


def notes(found: dict[str, Any], reask: int) -> list[str]:
    """Position bias, verdicts that do not count, and length, each a line."""
    bias, states = found["position_bias"], found["verdicts"]
    first, second, both = bias["first_preferred_in_both"], bias["second_preferred_in_both"], bias["judged_in_both_orders"]  # fmt: skip
    lines = []
    if both:
        lines.append(f"position bias: {first} of {both} questions went to the first answer in both orders, {second} to the second; they count as ties")  # fmt: skip
        if first + second > _BIASED * both:
            lines.append("this judge goes by the position more than by the answers: take another one before believing the figure")  # fmt: skip
    if found["identical_answers"]:
        lines.append(f"identical answers: {found['identical_answers']} questions, ties without asking")
    bad = {k: v for k, v in states.items() if v and k != "read"}
    if bad:
        words = ", ".join(f"{v} {k}" for k, v in bad.items())
        left = found["questions"] - found["judged"]
        again = f"; judge.reask={reask + 1} asks for the unreadable ones again" if states["unreadable"] else ""
        lines.append(f"verdicts: {states['read']} read, {words}; {left} questions are left out{again}")
    if found["longer_answer_won_share"] is not None:
        a, b = found["mean_characters"]
        lines.append(f"length: {a:,.0f} and {b:,.0f} characters on average; of the questions decided, the longer answer won {100 * found['longer_answer_won_share']:.0f} %")  # fmt: skip
    return lines


def page(first: str, found: dict[str, Any], lines: list[dict[str, Any]], names: tuple[str, str], judge: str, spent: dict[str, Any]) -> Page:  # fmt: skip
    """The report of a comparison by a language model."""
    made = start(first, found, names)
    for note in notes(found, 0):
        made.text(note[0].upper() + note[1:] + ".")
    made.text(
        f"Judge: {judge}. Each question was judged in both orders; a side wins it where both prefer it, and what they disagree on is a tie. "
        f"Intervals: 95 % by bootstrap over the questions; sign test of wins against losses: p = {found['sign_test_p']:.4f}. "
        "A difference is claimed where the interval leaves out one half and p is below 0.05."
    )
    made.heading("Cost")
    made.table([(k.replace("_", " "), f"{v:,.4f}" if isinstance(v, float) else f"{v:,}") for k, v in spent.items()])
    groups = (
        (f"Won by {names[0]}", [r for r in lines if r["outcome"] == "a"]),
        (f"Won by {names[1]}", [r for r in lines if r["outcome"] == "b"]),
        ("Decided by position", [r for r in lines if len({o["verdict"] for o in r["orders"]} & {"a", "b"}) == 2]),
        ("Not readable", [r for r in lines if any(o["state"] == "unreadable" for o in r["orders"])]),
    )
    for heading, rows in groups:
        if rows:
            made.heading(f"{heading}: {min(3, len(rows))} of {len(rows)}")
            for row in rows[:: max(1, len(rows) // 3)][:3]:
                said = "\n\n".join(f"judge, {names[o['first'] == 'b']} first: {o['text'] or ''}" for o in row["orders"])
                made.quote(f"{pair(row, names)}\n\n{said}")
    return made


def start(first: str, found: dict[str, Any], names: tuple[str, str]) -> Page:
    """What every comparison opens with: the sentence, the table, the picture."""
    made = Page(f"{names[0]} against {names[1]}")
    made.text(first + ".")
    categories = found["categories"]
    made.table([preference.row("all", found), *(preference.row(c, f) for c, f in categories.items())], preference.HEAD)
    made.picture("win_rate", preference.picture(found, categories, *names))
    return made


def pair(row: dict[str, Any], names: tuple[str, str]) -> str:
    """A question with both answers, as text."""
    asked = f"{row['instruction']}\n{row['input']}".strip()
    return f"{asked}\n\n{names[0]}: {row['answer_a']}\n\n{names[1]}: {row['answer_b']}"
