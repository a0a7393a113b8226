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
COLON = r"(?:[*_`~\s]{0,8}[:：]|\s?[】\]]\s?[:：]?)"
BARE = r"[*_`~\s]{0,8}(?:$|\s(?:[-–—]>?|=>?|→)\s)"
ANY_NAME = rf"(?:{'|'.join(NAMES)})"
NAMED = re.compile(ANY_NAME, re.I)
HIDDEN = "\0"  # before a line of a value that would pass for something else
_REACH = 120  # characters of a line among which the name of a label stands
_BULLET = re.compile(r"(?:[*\-•>]?\s)*")
_EMPHASIS = re.compile(r"\*{1,3}|_{1,3}|~{1,3}|`{1,3}")
_UNSEEN = re.compile("[\u200b\ufeff]")
HARD = re.compile(r"^\s*[*_]*\s*#{3}\s*(?:\d+\s*\.?|end)?\s*(?:#{3})?\s*[*_]*\s*$", re.I)
SEPARATOR = re.compile(
    r"^\s*[*_]*\s*(?:#{2,3}\s*(?:\d+\s*\.?|end)?\s*#*|#{4,6}|-{3,}|={3,}|_{3,}|(?:\*\s*){3,})\s*[*_]*\s*$", re.I
)
HEADING = re.compile(r"^[#*_\s]*(?:task|item|example|任务|任務|示例|题目|題目|タスク|例|과제)\s*#?\d+\b.{0,60}$", re.I)
NUMBERED_HEADING = re.compile(r"^[#*_\s]*\d+\s*[.)、:：]\s*.{0,60}$")
FENCE = re.compile(r"^\s*[>*\-\s]*```+\s*(\S*)\s*$")
_PLURAL = {part: [name + "s" for name in names if name.isascii()] for part, names in STRONG.items()}
PART = {name: part for group in (STRONG, WEAK, OTHER, _PLURAL) for part, names in group.items() for name in names}
Style = tuple[bool, bool, bool, bool, bool, str]


@dataclass
class Field:
    """A labelled part of an item. `label`: its line as it stood; `style`: what it looks like (see `labelled._style`)."""

    part: str
    style: Style
    lines: list[str]
    label: str


Block = list[Field]


def labels_in(text: str, end: str, every: bool = False) -> re.Pattern[str]:
    """What is a label in this reply: of each part its strong names, the weak ones too where those are too few to be more
    than words of the rows, and the plurals where the singular is missing."""
    if every:
        return labels_named(NAMES, end)
    lines = [line.strip() for line in visible(text).split("\n") if may_label(line, end)]
    names: list[str] = []
    items = 0
    for part, strong in STRONG.items():
        firm, loose, plural = (_found(lines, some, end) for some in (strong, WEAK[part], _PLURAL[part]))
        if part == "instruction" and loose and (not firm or loose[0] < firm[0]):
            items = len(loose)  # the first item does not say it by a strong name
        if firm and 2 * len(firm) > min(len(loose), items):
            names += strong
            items = items if part != "instruction" else len(firm)
        else:
            plurals = not firm and len(plural) > len(loose) and 2 * len(plural) > items
            names += strong + WEAK[part] + (_PLURAL[part] if plurals else [])
            items = items if part != "instruction" else len(firm) + len(loose) + len(plural) * plurals
    return labels_named(names, end)


def _found(lines: list[str], names: list[str], end: str) -> list[int]:
    """Which lines begin with one of these names as a label."""
    label = labels_named(names, end)
    return [number for number, line in enumerate(lines) if label.match(line)]


def labels_named(names: list[str], end: str) -> re.Pattern[str]:
    """What is a label with one of these names that ends so."""
    return re.compile(
        f"{_BEFORE}(?P<name>{'|'.join(sorted(names, key=len, reverse=True))}){_AFTER}{end}(?P<rest>.*)$", re.I
    )


def value_of(label: re.Match[str]) -> str:
    """What follows a label on its line, without the marks (`**`) that close what was opened before its name."""
    head, rest = label[0][: label.start("rest")], label["rest"]
    bullet = _BULLET.match(head)
    opened: list[str] = []
    for mark in _EMPHASIS.findall(head, bullet.end() if bullet else 0):
        if mark in opened:
            opened.remove(mark)
        else:
            opened.append(mark)
    for mark in reversed(opened):
        rest = rest.removeprefix(mark)
    return rest.lstrip()


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
