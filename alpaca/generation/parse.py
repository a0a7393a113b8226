"""A teacher's reply -> items, and for everything that is no item the reason why.

Knows which of the two reply formats was asked for, and that models may answer in the other, or with a table; knows no
filters, no journal and no teacher.
"""

import re
from typing import Literal

from alpaca.generation import json_reply, labelled, table
from alpaca.generation.items import Dropped, Item

ReplyFormat = Literal["alpaca", "json"]


def parse(
    text: str, reply_format: ReplyFormat = "alpaca", cut: bool = False, opening: str = ""
) -> list[Item | Dropped]:
    """The items of a reply in order, dropped ones in their places.

    `cut`: the reply ended for length, so that its last item is not whole. `opening`: text at the end of the prompt
    that the reply continues (plain completion). Never raises, whatever the text.
    """
    text = _without_thoughts(text.replace("\r\n", "\n").replace("\r", "\n"))
    asked: list[Item | Dropped] = []
    for form in (reply_format, "json" if reply_format == "alpaca" else "alpaca"):
        results = json_reply.read(text, cut) if form == "json" else labelled.read(text, cut, opening)
        if any(isinstance(r, Item) for r in results):
            return results
        asked = asked or results
    return table.read(text, cut) or asked or [Dropped("cut by length" if cut else "nothing readable", text)]


def _without_thoughts(text: str) -> str:
    """What a reasoning model says after it has thought; nothing where it never came to an end."""
    _, end, said = text.rpartition("</think>")
    return said if end else re.sub(r"^\s*<think>.*", "", text, flags=re.S)
