"""The entries of YAML that a model wrote, found by where their names stand, so that a broken one costs itself alone.

An entry is a run of names in one column: after the dash of a list, in a document, or below a name. Knows no item.
"""

import re
from dataclasses import dataclass, field

from alpaca.generation import json_reply

_NAME = re.compile(r"(?P<before> *(?:- +)*)(?P<mark>[\"']?)(?P<name>[^\s\"':#\[\]{},|>-][^:\"'\n]{0,29})(?P=mark)[ ]?:(?:[ \t]+(?P<rest>.*))?$")  # fmt: skip
_DIVIDES = re.compile(r"(?:---|\.\.\.|\s*-)\s*$")
_FENCE = re.compile(r"\s*```+\s*(\w*)\s*$")


@dataclass
class Field:
    """A name with what stands on its line, from place `start`, and below."""

    name: str
    first: str
    start: int
    rest: list[str] = field(default_factory=list)


@dataclass
class Entry:
    """`column`: where its names begin; `line`: the number of its first line; `set_off`: by more than its names; `broken`: a line
    belongs nowhere; `ended`: something that is no part of it follows; `trailed`: text at the margin follows, which may be
    a farewell; `headed`: the name of the next follows."""

    column: int
    line: int
    dashed: bool
    fenced: bool
    set_off: bool
    fields: list[Field] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    broken: bool = False
    ended: bool = False
    trailed: bool = False
    headed: bool = False

    def names(self, line: str, found: re.Match[str]) -> None:
        """Takes a line with one of its names."""
        self.fields.append(Field(found["name"].strip(), found["rest"] or "", max(found.start("rest"), 0)))
        self.lines.append(line)

    def goes_on(self, line: str) -> None:
        """Takes a line deeper than its names, or a blank one."""
        self.fields[-1].rest.append(line)
        self.lines.append(line)
        self.broken |= self.trailed and bool(line.strip())

    def strays(self, line: str) -> None:
        """A line that is none of its own, without anything that ended it."""
        blank = not self.lines[-1].strip()
        self.broken |= not blank and not self.trailed
        self.trailed = True


def entries(text: str) -> list[Entry]:
    """The entries in order, from the first with a name of a part on."""
    lines, found, fence, divided = text.split("\n"), list[Entry](), "", False
    for number, line in enumerate(lines):
        entry = found[-1] if found and not found[-1].ended else None
        column = len(line) - len(line.lstrip(" "))
        if entry and (not line.strip() or column > entry.column):
            entry.goes_on(line)
            continue
        named = _NAME.match(line)
        if named and _begins(entry, named, lines, number):
            if entry:
                entry.ended = True
            fenced, dashed, at = fence not in ("", "no"), "-" in named["before"], named.end("before")
            found.append(Entry(at, number, dashed, bool(fence), dashed or fenced or divided or at > 0))
            found[-1].names(line, named)
        elif entry and named and named.end("before") == entry.column and not entry.trailed:
            entry.names(line, named)
        elif marks := _FENCE.match(line):
            if entry and (not entry.fenced or marks[1]):
                entry.strays(line)
                continue
            fence = (marks[1].lower() or "no") if not fence else ""
            if entry:
                entry.ended = True
        elif _DIVIDES.match(line):
            divided = True
            if entry:
                entry.ended = entry.set_off = True
        elif entry and named and not named["rest"] and named.end("before") < entry.column:
            entry.ended = entry.headed = True
        elif entry and line.strip()[0] != "#":
            entry.strays(line)
    return [e for e in found if any(json_reply.part_of(f.name) for f in e.fields)]


def _begins(entry: Entry | None, named: re.Match[str], lines: list[str], number: int) -> bool:
    """Whether a line with a name opens an entry."""
    dashed, part, column = "-" in named["before"], json_reply.part_of(named["name"]), named.end("before")
    if _is_head(named, lines, number):
        return False
    if entry is None or column < entry.column and not entry.trailed:
        return dashed or bool(part)
    again = part == "instruction" and any(json_reply.part_of(f.name) == part for f in entry.fields)
    return dashed and column <= entry.column or again and not entry.dashed and column == entry.column


def _is_head(named: re.Match[str], lines: list[str], number: int) -> bool:
    """Whether an entry stands below a name, which is no field itself."""
    if named["rest"]:
        return False
    below = next((n for n in range(number + 1, len(lines)) if lines[n].strip()), number)
    inner = _NAME.match(lines[below])
    deeper = inner is not None and inner.end("before") > named.end("before")
    return bool(inner and deeper and ("-" in inner["before"] or json_reply.part_of(inner["name"])))
