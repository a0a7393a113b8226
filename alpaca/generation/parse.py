"""A teacher's reply -> items, and for everything that is no item the reason why.

Knows which of the two reply formats was asked for, and that models may answer in the other, or with YAML, TOML, CSV or a table;
knows no filters, no journal and no teacher.
"""

from typing import Literal

from alpaca.generation import csv_reply, json_reply, labelled, table, toml_reply, yaml_reply
from alpaca.generation.details import unfolded
from alpaca.generation.items import Dropped, Item
from alpaca.generation.spoken import said

ReplyFormat = Literal["alpaca", "json"]
_MOST_LINES = 100_000  # a hundred times what a long reply has, so that none takes for ever


def parse(
    text: str, reply_format: ReplyFormat = "alpaca", cut: bool = False, opening: str = ""
) -> list[Item | Dropped]:
    """The items of a reply in order, dropped ones in their places.

    `cut`: the reply ended for length, so that its last item is not whole. `opening`: text at the end of the prompt
    that the reply continues (plain completion). Never raises, whatever the text.
    """
    text = unfolded(said(text.replace("\r\n", "\n").replace("\r", "\n")))
    if (end := _end_of_line(text.rstrip(), _MOST_LINES)) is not None:
        return [*_parse(text[:end], reply_format, False, opening), Dropped("reply too long", text[end + 1 :])]
    return _parse(text, reply_format, cut, opening)


def _end_of_line(text: str, number: int) -> int | None:
    """Where a line ends that others follow; None where there are not so many."""
    if text.count("\n") < number:
        return None
    end = -1
    for _ in range(number):
        end = text.index("\n", end + 1)
    return end


def _parse(text: str, reply_format: ReplyFormat, cut: bool, opening: str) -> list[Item | Dropped]:
    if found := yaml_reply.read(text, cut) or toml_reply.read(text, cut) or csv_reply.read(text, cut):
        return found
    asked: list[Item | Dropped] = []
    for form in (reply_format, "json" if reply_format == "alpaca" else "alpaca"):
        results = json_reply.read(text, cut) if form == "json" else labelled.read(text, cut, opening)
        if any(isinstance(r, Item) for r in results):
            return results
        asked = asked or results
    return table.read(text, cut) or asked or [Dropped("cut by length" if cut else "nothing readable", text)]
