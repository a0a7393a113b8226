"""Items of a reply in YAML: a list of them, a document each, or one under a name. Knows no labels.

Read only where it is certain that YAML was meant: by blocks (`|`, `>`), by all texts in quotation marks, or by what only
YAML writers do. Plain values on one line alone are left to labelled text, which reads the same in them.
"""

import re
from collections.abc import Iterator

from alpaca.generation import json_reply, yaml_value
from alpaca.generation.items import NAMES, Dropped, Item
from alpaca.generation.yaml_entries import Entry, entries
from alpaca.generation.yaml_value import Value

_NAME = rf"(?:{'|'.join(NAMES)})"
_LABEL = re.compile(
    rf"^[^\w\n]{{0,20}}(?:\d{{1,4}}[^\w\n]{{0,8}})?{_NAME}[^\w\n]{{0,8}}(?:[:：>\]】]|$)(?![^\S\n]*\n+(?:```\w*\n)?[ ]*-[ ])",
    re.I | re.M,
)
_MAY = re.compile(rf"^[ ]*(?:-[ ]+)*[\"']?{_NAME}s?[\"']?[ ]?:(?:\s|$)", re.I | re.M)
_OPENS = re.compile(r"[\[{]\s*\Z")
_PARTS = {"instruction", "output"}


def read(text: str, cut: bool = False) -> list[Item | Dropped]:
    """The items of a reply in order, dropped ones in their places; empty where it is no YAML."""
    found = entries(text) if _MAY.search(text) else []
    if not found or is_inside("\n".join(text.split("\n")[: found[0].line])):
        return []
    values = [_values(entry) for entry in found]
    parts = [{json_reply.part_of(f.name) for f in e.fields} for e in found]
    last = len(found) - 1
    if sum(p >= _PARTS for p in parts) * 2 < len(found) - cut or not any(p >= _PARTS for p in parts):
        return []
    whole = range(last if cut and last and not found[-1].ended else last + 1)
    if not _is_certain([found[n] for n in whole], [values[n] for n in whole], len(whole) <= last):
        return []
    return [
        Dropped("cut by length", _text(e)) if cut and e is found[-1] and not e.ended else _item(e, v, e is found[-1])
        for e, v in zip(found, values, strict=True)
    ]


def is_inside(before: str) -> bool:
    """Whether labels, tags or brackets stand in front, so that what follows is a part of a row."""
    return bool(_LABEL.search(before) or _OPENS.search(before))


def _values(entry: Entry) -> list[Value]:
    return [yaml_value.read(f.first, f.rest, entry.column, f.start) for f in entry.fields]


def _is_certain(found: list[Entry], values: list[list[Value]], cut: bool) -> bool:
    """Whether only YAML is written so; of a reply that was cut these are the entries before the last."""
    looks = {value.look for entry, own in zip(found, values, strict=True) for _, value in _of_parts(entry, own)}
    lower = all(f.name == f.name.lower() for e in found for f in e.fields)
    if any(yaml_value.is_block(f.first) for e in found for f in e.fields if json_reply.part_of(f.name)):
        return True
    if looks <= {"quoted", "needed", "empty", "broken"} and looks & {"quoted", "needed"}:
        return lower or all(e.dashed for e in found)
    if not lower or not all(e.set_off for e in found):
        return False
    if looks & {"needed", "wrapped"} or "quoted" in looks and (cut or _always_quoted(found, values)):
        return True
    return any(map(_has_more, found)) and not looks & {"unclear", "broken"} and not any(e.broken for e in found)


def _has_more(entry: Entry) -> bool:
    """Whether it has names of no part, or its parts in an order of their own, or stands under a name."""
    parts = [json_reply.part_of(f.name) for f in entry.fields]
    return entry.headed or parts[0] != "instruction" or "" in parts


def _always_quoted(found: list[Entry], values: list[list[Value]]) -> bool:
    """Whether some part is in quotation marks in all of several entries."""
    by_part: dict[str, list[str]] = {}
    for entry, own in zip(found, values, strict=True):
        for part, value in _of_parts(entry, own):
            by_part.setdefault(part, []).append(value.look)
    return any(len(looks) > 1 and set(looks) <= {"quoted", "needed"} for looks in by_part.values())


def _of_parts(entry: Entry, values: list[Value]) -> Iterator[tuple[str, Value]]:
    for f, value in zip(entry.fields, values, strict=True):
        if part := json_reply.part_of(f.name):
            yield part, value


def _item(entry: Entry, values: list[Value], last: bool) -> Item | Dropped:
    looks = {value.look for _, value in _of_parts(entry, values)}
    names = [f.name.lower() for f in entry.fields]
    if entry.broken or entry.trailed and not last or "broken" in looks:
        return Dropped("broken YAML", _text(entry))
    if "unclear" in looks:
        return Dropped("unclear YAML", _text(entry))
    if len(set(names)) < len(names):
        return Dropped("repeated field", _text(entry))
    (found, *more) = json_reply.objects({f.name: v.text for f, v in zip(entry.fields, values, strict=True)})
    return found if not more else Dropped("unclear YAML", _text(entry))


def _text(entry: Entry) -> str:
    return "\n".join(entry.lines).strip()
