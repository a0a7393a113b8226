"""Items of a reply that is a Markdown table with a column for each part. Knows no labels and no JSON."""

import re

from alpaca.generation.items import OTHER, STRONG, WEAK, Dropped, Item, whole

_PART = {name: part for group in (OTHER, STRONG, WEAK) for part, names in group.items() for name in names}
_RULE = re.compile(r"^\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)+\|?$")
_BAR = re.compile(r"(?<!\\)\|")
_BREAK = re.compile(r"<br\s*/?>", re.I)


def read(text: str, cut: bool = False) -> list[Item | Dropped]:
    """The items of a reply in order, dropped ones in their places; empty where there is no such table."""
    lines = [line.strip() for line in text.split("\n")]
    results: list[Item | Dropped] = []
    columns: list[str | None] = []
    for number, line in enumerate(lines):
        if number + 1 < len(lines) and _RULE.match(lines[number + 1]):
            columns = [_PART.get(cell.strip("*_` ").lower()) for cell in _cells(line)]
            columns = columns if "instruction" in columns else []
        elif columns and "|" not in line:
            columns = []
        elif columns and not _RULE.match(line):
            results.append(_row(line, columns))
    if cut and results and lines[-1] and not _BAR.search(lines[-1], len(lines[-1]) - 1):
        results[-1] = Dropped("cut by length", lines[-1])
    return results


def _cells(line: str) -> list[str]:
    inner = line.removeprefix("|")
    inner = inner[:-1] if _BAR.search(inner, max(len(inner) - 1, 0)) else inner
    return [_BREAK.sub("\n", cell.replace("\\|", "|")).strip() for cell in _BAR.split(inner)]


def _row(line: str, columns: list[str | None]) -> Item | Dropped:
    cells = _cells(line)
    if len(cells) != len(columns):
        return Dropped("broken row of a table", line)
    return whole({part: cell for part, cell in zip(columns, cells, strict=True) if part}, line)
