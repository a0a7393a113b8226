"""What a line of a labelled reply is: the label of a field, a separator, a heading, a fence. Knows no item."""

import re
from dataclasses import dataclass

from alpaca.generation.items import NAMES, OTHER, STRONG, WEAK

_NUMBER = r"(?:第\s?)?[（(\[【#]{0,2}\s?(?:\d{1,4}(?:\.\d)?|[①-⑳]|(?:[a-z]|[ivx]{1,5})(?=\s?[.)）:：])|[一二三四五六七八九十]{1,3})\s?(?:[条个题]\s?)?[.．,、:：)）\]】]{0,2}"
_MARK = r"[*_`~\s]{0,8}"
_BEFORE = (
    rf"(?:\#{{1,6}}(?!\d)\s?)?[>*_`~\-•\s]{{0,12}}(?:[\U0001F000-\U0001FAFF\u2190-\u2BFF\uFE0F]{{1,4}}\s?[*_]{{0,3}})?(?P<number>(?:(?:task|item|example|任务|示例)\s?)?{_NUMBER}(?:\s?[-–—]\s|\s[a-c][.)])?)?{_MARK}"
    r"(?P<kind>(?:sample|example|expected)\s)?(?:[【\[]\s?)?"
)
_AFTER = r"(?:内容|內容)?\s?(?P<after>\#?\d{1,4}|[一二三四五六七八九十]{1,3})?\s?(?:[（(][^()（）]{0,30}[）)])?"
COLON = r"(?:[*_`~\s]{0,8}[:：]|\s?[】\]]\s?[:：]?)(?:[*_~]{1,3}|`(?!``))?"
BARE = r"[*_`~\s]{0,8}(?:$|\s(?:[-–—]>?|=>?|→)\s)"
ANY_NAME = rf"(?:{'|'.join(NAMES)})"
NAMED = re.compile(ANY_NAME, re.I)
_REACH = 120  # characters of a line among which the name of a label stands
_UNSEEN = re.compile("[\u200b\ufeff]")
HARD = re.compile(r"^\s*[*_]*\s*#{3}\s*(?:\d+\s*\.?|end)?\s*(?:#{3})?\s*[*_]*\s*$", re.I)
SEPARATOR = re.compile(
    r"^\s*[*_]*\s*(?:#{2,3}\s*(?:\d+\s*\.?|end)?\s*#*|#{4,6}|-{3,}|={3,}|_{3,}|(?:\*\s*){3,})\s*[*_]*\s*$", re.I
)
HEADING = re.compile(r"^[#*_\s]*(?:task|item|example|任务|任務|示例|题目|題目|タスク|例|과제)\s*#?\d+\b.{0,60}$", re.I)
NUMBERED_HEADING = re.compile(r"^[#*_\s]*\d+\s*[.)、:：]\s*.{0,60}$")
FENCE = re.compile(r"^\s*[>*\-\s]*```+\s*(\S*)\s*$")
PART = {name: part for group in (STRONG, WEAK, OTHER) for part, names in group.items() for name in names}
Style = tuple[bool, bool, bool, bool, bool]


@dataclass
class Field:
    """A labelled part of an item. `label`: its line as it stood; `style`: what it looks like (see `labelled._style`)."""

    part: str
    style: Style
    lines: list[str]
    label: str


Block = list[Field]


def labels_in(text: str, end: str, every: bool = False) -> re.Pattern[str]:
    """What is a label in this reply."""
    if every:
        return labels_named(NAMES, end)
    lines = [line.strip() for line in visible(text).split("\n") if may_label(line, end)]
    found = {part: sum(map(bool, map(labels_named(strong, end).match, lines))) for part, strong in STRONG.items()}
    least = {"instruction": 1, "input": 1, "output": max(1, found["instruction"] / 2)}  # a few are words of the rows
    names: list[str] = []
    for part, strong in STRONG.items():
        names += strong if found[part] >= least[part] else strong + WEAK[part]
    return labels_named(names, end)


def labels_named(names: list[str], end: str) -> re.Pattern[str]:
    """What is a label with one of these names that ends so."""
    return re.compile(
        f"{_BEFORE}(?P<name>{'|'.join(sorted(names, key=len, reverse=True))}){_AFTER}{end}\\s*(?P<rest>.*)$", re.I
    )


def may_label(line: str, end: str) -> bool:
    """Whether a line holds a sign that ends labels and the name of a part; cheap, for most lines hold none."""
    signed = end is not COLON or ":" in line or "：" in line or "】" in line or "]" in line
    return signed and NAMED.search(line, 0, _REACH) is not None


def visible(text: str) -> str:
    """Without the characters that no one sees, which stand before labels now and then."""
    return _UNSEEN.sub("", text) if not text.isascii() else text


def is_line(pattern: re.Pattern[str], line: str) -> re.Match[str] | None:
    """A match of a line that is short enough to be a separator, a heading or a fence."""
    return pattern.match(line) if len(line) <= 120 else None
