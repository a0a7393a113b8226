"""Items of a reply in TOML, one in each table of an array (`[[items]]`). Knows no labels and no JSON."""

import re
import tomllib
from collections.abc import Iterator

from alpaca.generation.items import Dropped, Item
from alpaca.generation.json_reply import objects, part_of
from alpaca.generation.yaml_reply import is_inside

_TABLE = re.compile(r"^[ \t]*\[\[[\w.\"' -]{1,40}\]\][ \t]*\n+[ \t]*[\"']?(\w{1,30})[\"']?[ \t]*=[ \t]*\S", re.M)
_FENCE = re.compile(r"^[ \t]*```", re.M)
_BEFORE = 5  # lines in front of the first table


def read(text: str, cut: bool = False) -> list[Item | Dropped]:
    """The items of a reply in order, dropped ones in their places; empty where there is no such table."""
    tables = [table for table in _TABLE.finditer(text) if part_of(table[1]) or table[1].lower() in ("id", "number")]
    if not tables or text.count("\n", 0, tables[0].start()) > _BEFORE or is_inside(text[: tables[0].start()]):
        return []
    body = text[tables[0].start() :]
    if not cut:
        for end in (len(body), *(fence.start() for fence in [*_FENCE.finditer(body)][-1:])):
            try:
                found = objects(tomllib.loads(body[:end]))
            except (tomllib.TOMLDecodeError, RecursionError):
                continue
            if found:
                return found
    starts = [table.start() for table in tables]
    parts = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    return list(_each(parts, cut))


def _each(parts: list[str], cut: bool) -> Iterator[Item | Dropped]:
    """One for each table, read by itself: a broken one costs no other."""
    for number, part in enumerate(parts, 1):
        if cut and number == len(parts):
            yield Dropped("cut by length", part)
            return
        ends = [len(part), *(fence.start() for fence in reversed([*_FENCE.finditer(part)]))]
        for end in ends[:3]:
            try:
                found = objects(tomllib.loads(part[:end]))
            except (tomllib.TOMLDecodeError, RecursionError):
                continue
            yield from found or [Dropped("broken TOML", part)]
            break
        else:
            yield Dropped("broken TOML", part)
