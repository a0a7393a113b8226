"""What stands between an item of a labelled reply and the next, or after the last, and is no part of either."""

import re

from alpaca.generation.reply_lines import HARD, HEADING, NUMBERED_HEADING, SEPARATOR, Block, is_line

_ASIDE = re.compile(
    r"\W*(?:\d{1,4}[.)]\s*)?[*_]*(?:category|task type|type|difficulty|topic|domain|tags?|类别|类型|难度|任务类型|類別|類型|難度)[*_]*\s?[:：].{0,80}",
    re.I,
)
_NUMBERED_ASIDE = re.compile(
    r"\W*\d{1,4}[.)、]\s*[*_]*(?:category|task type|type|difficulty|topic|domain|tags?|explanation|rationale|reasoning|类别|类型|难度|解释|解析|理由|類別|類型|難度|解釋)[*_]*\s?[:：].{0,400}",
    re.I,
)
_ALIKE = 40  # characters at the start of a line by which it is the same as the one above the first item
_FAREWELL = re.compile(
    r"^\W*(?:(?:would you like|if you(?:'d| would)? (?:need|like|want))\b.{0,80}(?:\b(?:tasks|instructions|examples)\b|just ask)|\(?end of (?:the )?(?:tasks|list|instructions|examples)"
    r"|note\b\W{1,4}(?:that )?(?:i|the|these|all)\b.{0,80}\b(?:tasks|instructions|examples)\b|注[：:].{0,10}(?:任务|指令|示例|任務)|以上、|以上(?:共|の)|i hope (?:this|these|it)\b|hope (?:this|these)\b|let me know if\b|feel free to\b|please let me know\b|note(?: that)?:? these\b"
    r"|these (?:\w+ )?(?:tasks|instructions|examples)\b|希望(?:这些|以上)|以上(?:是|为|就是|任务|指令)|如(?:果(?:您|你)?)?(?:还|仍|還)?需要?(?:更多|其他|其它))",
    re.I,
)
_OF_TASKS = re.compile(
    r"\b(?:tasks|instructions|examples)\b|任务|任務|指令|示例|例|タスク|指示|\AI hope (?:this|these) helps?\W{1,3}(?:please )?let me know\b",
    re.I,
)


def separator_of(blocks: list[Block]) -> str:
    """The sign of the lines that separate the items of this reply, besides ###; empty where there are none."""
    ends = [next((x for x in reversed(b[-1].lines) if x.strip() and not is_line(HEADING, x)), "") for b in blocks[:-1]]
    signs = [end.strip(" *_")[:1] or end.strip()[:1] for end in ends if is_line(SEPARATOR, end)]
    sign = max(signs, key=signs.count, default="")
    return sign if 2 * signs.count(sign) >= len(ends) else ""


def finish(block: Block, following: Block | None, separator: str, above: str) -> str | None:
    """Take from an item what stands between it and the next; `above`: the line above the first item. Returns what came
    after a separator, None without one."""
    for field in block[:-1]:
        _trim(field.lines, "#", False, "")
    lines, rest = block[-1].lines, None
    end = next((i for i, line in enumerate(lines) if i and "###" in line and is_line(HARD, line)), None)
    inline = re.search(r"(?<=\S)\s+###\s*$", "\n".join(lines[-2:])) if following is None else None
    if end is not None:
        rest = "\n".join(lines[end + 1 :])
        del lines[end:]
    elif following is None and not inline:
        _drop_farewell(lines)
    titled = following is not None and not following[0].style[0]
    _trim(lines, separator, titled, above)
    return "" if rest is None and inline else rest


def _trim(lines: list[str], separator: str, titled: bool, above: str) -> None:
    """Without the separators at the end of a field and, before a `titled` item, the heading of that one."""
    number = heading = titled  # each goes once: more of them are text
    while len(lines) > 1:
        line = lines[-1]
        sign = (line.strip(" *_") or line.strip())[:1] if is_line(SEPARATOR, line) else ""
        if not line.strip() or sign and sign in {"#", separator}:
            lines.pop()
        elif heading and (
            line.strip()[:_ALIKE] == above.strip()[:_ALIKE] or _word(line) and _word(line) == _word(above)
        ):
            heading = False
            lines.pop()
        elif number and _is_number(line, above) and any(other.strip() for other in lines[:-1]):
            number = False
            lines.pop()
        else:
            break
    lines[-1] = re.sub(r"(?<=\S)\s+###$", "", lines[-1].rstrip())


def _word(line: str) -> str:
    """`task` of a heading `### Task 2: Title`; empty for another line."""
    return re.findall(r"[^\W\d_]+", line)[0].lower() if is_line(HEADING, line) else ""


def _is_number(line: str, above: str) -> bool:
    """A line `3.` or, where the first item has one, a heading `3. Title`."""
    alone = re.fullmatch(r"\s*[*_]*\d+\s*[.)、][*_]*\s*", line)
    return bool(alone or is_line(NUMBERED_HEADING, above) and is_line(NUMBERED_HEADING, line))


def _drop_farewell(lines: list[str]) -> None:
    """The last paragraph of a reply, where the model speaks of its tasks to whoever asked, and the line above it."""
    text = "\n".join(lines).rstrip()
    start = text.rfind("\n\n")
    if start <= 0 or not _FAREWELL.match(last := text[start:].strip()) or not _OF_TASKS.search(last):
        return
    lines[:] = text[:start].rstrip().split("\n")
    while len(lines) > 1 and is_line(SEPARATOR, lines[-1]):
        lines.pop()


def drop_asides(blocks: list[Block]) -> None:
    """Without a line such as `Category: …` at the end of an item, where every item has one there, below a blank line or
    with a number as its labels."""
    ends = [_aside(block) for block in blocks]
    if len(ends) > 1 and all(ends):
        for block, end in zip(blocks, ends, strict=True):
            del block[-1].lines[end:]


def _aside(block: Block) -> int:
    """Where the aside of an item begins among its last lines; 0 where there is none."""
    *above, line = block[-1].lines
    if block[-1].style[0] and len(line) < 500 and _NUMBERED_ASIDE.fullmatch(line):
        return len(above) if any(other.strip() for other in above) else 0
    if len(line) > 120 or not _ASIDE.fullmatch(line) or not above or above[-1].strip():
        return 0
    return len(above) - 1 if any(other.strip() for other in above) else 0
