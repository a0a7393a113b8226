"""Items of a reply in CSV, with a column for each part. Knows no labels and no JSON."""

import csv
import re
from collections.abc import Iterator

from alpaca.generation.items import Dropped, Item, whole
from alpaca.generation.json_reply import part_of
from alpaca.generation.yaml_reply import is_inside

_HEADER = re.compile(r"^[^\S\n]*[\w\"]{1,20}(?:,[ ]?[\w\" ]{1,20}){1,7}[^\S\n]*$", re.M)
_WANTED = {"instruction", "output"}
_BEFORE = 5  # lines in front of the header of the names


def read(text: str, cut: bool = False) -> list[Item | Dropped]:
    """The items of a reply in order, dropped ones in their places; empty where there is no such header."""
    for header in _HEADER.finditer(text):
        before = text[: header.start()]
        columns = [name.strip().strip('"').lower() for name in header[0].split(",")]
        if before.count("\n") > _BEFORE or is_inside(before):
            return []
        if set(columns) >= _WANTED:
            return list(_rows(text[header.end() :].lstrip("\n").split("\n"), columns, cut))
    return []


def _rows(lines: list[str], columns: list[str], cut: bool) -> Iterator[Item | Dropped]:
    """One for each record, up to a fence or to words below a blank line."""
    records, begin = csv.reader((line + "\n" for line in lines), strict=True, skipinitialspace=True), 0
    while begin < len(lines) and not lines[begin].startswith("```"):
        try:
            cells = next(records)
        except csv.Error:
            yield Dropped("cut by length" if cut else "broken CSV", "\n".join(lines[begin:]))
            return
        raw, begin = "\n".join(lines[begin : records.line_num]), records.line_num
        rest = next((line for line in lines[begin:] if line.strip()), "") if not cells else '"'
        if not rest.startswith('"'):
            return
        if cut and begin >= len(lines):
            yield Dropped("cut by length", raw)
        elif cells and len(cells) != len(columns):
            yield Dropped("broken CSV", raw)
        elif cells:
            yield whole({part_of(name): cell for name, cell in zip(columns, cells, strict=True) if part_of(name)}, raw)
