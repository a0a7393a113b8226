"""Items of a reply in labelled text: `1. Instruction: …`, `1. Input:`, `1. Output:`, separated by ###.

Models bend the format: other numbering, Markdown, full-width signs, headings between the items, labels or ### inside an
output. What decides is how the reply itself does it: if its own labels bear numbers, a label without one inside an output
is part of that output; if it says `Output`, then `Answer:` is an ordinary word. Knows no JSON.
"""

import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from alpaca.generation.items import NAMES, OTHER, STRONG, WEAK, Dropped, Item, whole

_NUMBER = r"(?:第\s?)?[（(\[【#]{0,2}\s?(?:\d{1,4}(?:\.\d)?|[①-⑳]|(?:[a-z]|[ivx]{1,5})(?=\s?[.)）:：])|[一二三四五六七八九十]{1,3})\s?(?:[条个题]\s?)?[.．,、:：)）\]】]{0,2}"
_MARK = r"[*_`~\s]{0,8}"
_BEFORE = (
    rf"(?:\#{{1,6}}(?!\d)\s?)?[>*_`~\-•\s]{{0,12}}(?:[\U0001F000-\U0001FAFF\u2190-\u2BFF\uFE0F]{{1,4}}\s?[*_]{{0,3}})?(?P<number>(?:(?:task|item|example|任务|示例)\s?)?{_NUMBER}(?:\s?[-–—]\s|\s[a-c][.)])?)?{_MARK}"
    r"(?P<kind>(?:sample|example|expected)\s)?(?:[【\[]\s?)?"
)
_AFTER = r"(?:内容|內容)?\s?(?P<after>\#?\d{1,4}|[一二三四五六七八九十]{1,3})?\s?(?:[（(][^()（）]{0,30}[）)])?"
_COLON = r"(?:[*_`~\s]{0,8}[:：]|\s?[】\]]\s?[:：]?)(?:[*_~]{1,3}|`(?!``))?"
_BARE = r"[*_`~\s]{0,8}(?:$|\s(?:[-–—]>?|=>?|→)\s)"
_ANY = rf"(?:{'|'.join(NAMES)})"
_NAMED = re.compile(_ANY, re.I)
_LONG = 10_000  # lines of a reply that is looked at in its likeliest form alone
_REACH = 120  # characters of a line among which the name of a label stands
_TAG = re.compile(rf"([<\[])(/?)({_ANY})[_ -]?\d*(?:\s[^<>\[\]\n]{{0,200}}?)?(/?)[>\]]", re.I)
_FRAMES = re.compile(
    r"(?:^|(?<=[>\]]))[^\S\n]*[<\[]/?(?:task|item|example|row|sample|entry|pair|record)s?(?:_\d+)?(?:\s[^<>\n]{0,200})?[>\]][^\S\n]*(?=$|[<\[])",
    re.I | re.M,
)
_CDATA = re.compile(r"\s*<!\[CDATA\[(.*)\]\]>\s*", re.S)
_UNSEEN = re.compile("[\u200b\ufeff]")
_HARD = re.compile(r"^\s*[*_]*\s*#{3}\s*(?:\d+\s*\.?|end)?\s*(?:#{3})?\s*[*_]*\s*$", re.I)
_SEPARATOR = re.compile(
    r"^\s*[*_]*\s*(?:#{2,3}\s*(?:\d+\s*\.?|end)?\s*#*|#{4,6}|-{3,}|={3,}|_{3,}|(?:\*\s*){3,})\s*[*_]*\s*$", re.I
)
_HEADING = re.compile(r"^[#*_\s]*(?:task|item|example|任务|任務|示例|题目|題目|タスク|例|과제)\s*#?\d+\b.{0,60}$", re.I)
_NUMBERED_HEADING = re.compile(r"^[#*_\s]*\d+\s*[.)、:：]\s*.{0,60}$")
_FENCE = re.compile(r"^\s*[>*\-\s]*```+\s*(\S*)\s*$")
_INLINE = re.compile(rf"(?<=\S)[ \t]+(?=\#?\d+\s*[.)、]\s*(?:{'|'.join(n for names in STRONG.values() for n in names)})\s*[:：])", re.I)  # fmt: skip
_SPLIT = re.compile(
    rf"(?<=\S)[ \t]+(?=[*_]{{0,3}}(?:{'|'.join(STRONG['input'] + STRONG['output'])})[*_]{{0,3}}\s?[:：])", re.I
)
_TITLED = re.compile(
    rf"^[#*_ ]*(?:task |任务|任務)?\d{{1,4}}\s?[.):、：]\s*(?P<text>\S.*?)[*_ ]*\n+(?=\W*(?:{'|'.join(STRONG['input'] + STRONG['output'])})[*_ ]*[:：])",
    re.I | re.M,
)
_ASIDE = re.compile(
    r"\W*(?:\d{1,4}[.)]\s*)?[*_]*(?:category|task type|type|difficulty|topic|domain|tags?|类别|类型|难度|任务类型|類別|類型|難度)[*_]*\s?[:：].{0,80}",
    re.I,
)
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
_FENCED = re.compile(r"```\w*\n((?:(?!```).)*?)\n?```", re.S)
_QUOTED = re.compile(r'"([^"\n]*)"')


_Style = tuple[bool, bool, bool, bool, bool]


@dataclass
class _Field:
    """A labelled part of an item. `label`: its line as it stood; `style`: what it looks like (see `_style`)."""

    part: str
    style: _Style
    lines: list[str]
    label: str


_Block = list[_Field]


def read(text: str, cut: bool = False, opening: str = "") -> list[Item | Dropped]:
    """The items of a reply in order, dropped ones in their places; empty where there is no label at all."""
    text = _plain(text)
    first = next((line for line in text.split("\n") if line.strip()), "")
    if opening and not _pattern(text, _COLON).match(first.strip()):
        text = opening + " " + text.lstrip()
    if not _NAMED.search(text):
        return []
    best: list[Item | Dropped] = []
    for form, end, every in _forms(text):
        results = _read(form, end, every, cut)
        if any(isinstance(r, Item) for r in results):
            return results
        best = best or results
    return best


def _forms(text: str) -> Iterator[tuple[str, str, bool]]:
    """The text with each of its labels on a line of its own, how a label ends, and whether every name counts; the
    likeliest first."""
    yield _untagged(text), _COLON, False
    if text.count("\n") > _LONG:
        return
    yield _INLINE.sub("\n", re.sub(r"<br\s*/?>", "\n", text)), _COLON, False
    yield text, _BARE, False
    yield _TITLED.sub(r"Instruction: \g<text>\n", text), _COLON, False
    yield _SPLIT.sub("\n", text), _COLON, False
    yield text, _COLON, True
    if "\n" not in text.strip() and "\\n" in text:
        yield text.replace("\\n", "\n"), _COLON, False


def _untagged(text: str) -> str:
    """<output>…</output> as a line `output: …`, each tag with the nearest that closes it; where tags are the labels."""
    tags = list(_TAG.finditer(text)) if "</" in text or "[/" in text else []
    if not tags or _labelled(text[: tags[0].start()]):
        return text
    bare = _FRAMES.sub("", text)
    tags = list(_TAG.finditer(bare))
    closing: dict[str, list[re.Match[str]]] = {}
    for tag in tags:
        if tag[2]:
            closing.setdefault(tag[1] + tag[3].lower(), []).append(tag)
    parts, done = [], 0
    for tag in tags:
        ends = closing.get(tag[1] + tag[3].lower(), [])
        at = bisect_left(ends, tag.end(), key=re.Match.start)
        if tag[2] or tag.start() < done or at == len(ends) and not tag[4]:
            continue
        end = tag if tag[4] else ends[at]
        inner = "" if tag[4] else _CDATA.sub(r"\1", bare[tag.end() : end.start()]).strip()
        parts.append(f"{bare[done : tag.start()]}\n{tag[3]}: {inner}\n")
        done = end.end()
    return "".join([*parts, bare[done:]]) if parts else text


def _labelled(text: str) -> bool:
    """Whether a text has a label before any tag."""
    label = _label(STRONG["instruction"], _COLON)
    return any(label.match(line.strip()) for line in text.split("\n") if _may_label(line, _COLON))


def _plain(text: str) -> str:
    """Without what surrounds the whole reply: quotation marks, a fence, indentation."""
    lines = _dedent(text.strip("\n").split("\n"))
    filled = [line for line in lines if line.strip()]
    if filled and all(line.lstrip().startswith(">") for line in filled):
        lines = [re.sub(r"^\s*> ?", "", line) for line in lines]
    if len(filled) > 2 and _is(_FENCE, filled[0]) and filled[-1].strip() == "```":
        inner = "\n".join(lines).split("\n", 1)[1].rstrip()[:-3]
        return inner if sum(bool(_is(_FENCE, line)) for line in filled) % 2 == 0 else "\n".join(lines)
    return "\n".join(lines)


def _dedent(lines: list[str]) -> list[str]:
    """Without the space in front that all lines have; where they have none, to the letter as they were."""
    indents = [line[: len(line) - len(line.lstrip())] for line in lines if line.strip()]
    common = len(os.path.commonprefix(indents))
    return [line[common:] for line in lines] if common else lines


def _pattern(text: str, end: str, every: bool = False) -> re.Pattern[str]:
    """What is a label in this reply."""
    if every:
        return _label(NAMES, end)
    lines = [line.strip() for line in _seen(text).split("\n") if _may_label(line, end)]
    found = {part: sum(map(bool, map(_label(strong, end).match, lines))) for part, strong in STRONG.items()}
    least = {"instruction": 1, "input": 1, "output": max(1, found["instruction"] / 2)}  # a few are words of the rows
    names: list[str] = []
    for part, strong in STRONG.items():
        names += strong if found[part] >= least[part] else strong + WEAK[part]
    return _label(names, end)


def _seen(text: str) -> str:
    """Without the characters that no one sees, which stand before labels now and then."""
    return _UNSEEN.sub("", text) if not text.isascii() else text


def _may_label(line: str, end: str) -> bool:
    """Whether a line holds a sign that ends labels and the name of a part; cheap, for most lines hold none."""
    signed = end is not _COLON or ":" in line or "：" in line or "】" in line or "]" in line
    return signed and _NAMED.search(line, 0, _REACH) is not None


def _label(names: list[str], end: str) -> re.Pattern[str]:
    return re.compile(
        f"{_BEFORE}(?P<name>{'|'.join(sorted(names, key=len, reverse=True))}){_AFTER}{end}\\s*(?P<rest>.*)$", re.I
    )


_PART = {name: part for group in (STRONG, WEAK, OTHER) for part, names in group.items() for name in names}


def _read(text: str, end: str, every: bool, cut: bool) -> list[Item | Dropped]:
    label, lines = _pattern(text, end, every), text.split("\n")
    seen = _seen(text).split("\n")
    labels = [label.match(line.lstrip()) if _may_label(line, end) else None for line in seen]
    if not any(labels):
        return []
    _unlabel_code(lines, labels)
    first = next((i for i, match in enumerate(labels) if match), len(lines))
    before = next((line for line in reversed(lines[:first]) if line.strip() and not _is(_SEPARATOR, line)), "")
    headings = bool(_is(_NUMBERED_HEADING, before))
    _open_fences(lines, labels)
    blocks = _blocks(lines, labels, every)
    results: list[Item | Dropped] = []
    separator = _separator(blocks) if len(blocks) > 1 else "#"
    rests = [_finish(b, n, separator, headings) for b, n in zip(blocks, [*blocks[1:], None], strict=True)]
    _drop_asides(blocks)
    for block, rest in zip(blocks, rests, strict=True):
        last = block is blocks[-1]
        if cut and last and rest is None:
            results.append(Dropped("cut by length", _text(block)))
            continue
        results.append(_item(block))
        if cut and last and rest and rest.strip():
            results.append(Dropped("cut by length", rest.strip()))
    return results


def _unlabel_code(lines: list[str], labels: "list[re.Match[str] | None]") -> None:
    """Labels inside a block of code that belongs to a field are no labels."""
    first = next((i for i, match in enumerate(labels) if match), len(lines))
    if any(_is(_FENCE, line) for line in lines[:first][-2:]):
        return  # the items themselves stand in fences
    opened: int | None = None
    numbered = bool(first < len(lines) and labels[first] and labels[first]["number"])  # type: ignore[index]
    for i, line in enumerate(lines):
        match = labels[i]
        if opened is not None and numbered and match and match["number"]:
            opened = None  # it was never closed
        if not (fence := "```" in line and _is(_FENCE, match["rest"] if match else line)):
            continue
        if opened is None or fence[1]:
            opened = i
        else:
            labels[opened + 1 : i + 1] = [None] * (i - opened)
            lines[opened + 1 : i] = [_hide(line) for line in lines[opened + 1 : i]]
            opened = None


def _open_fences(lines: list[str], labels: "list[re.Match[str] | None]") -> None:
    """Where each item stands in a fence, without the lines of those fences."""
    starts = [i for i, match in enumerate(labels) if match and _PART[match["name"].lower()] == "instruction"]
    opens = [next((j for j in range(i - 1, max(i - 4, -1), -1) if lines[j].strip()), -1) for i in starts]
    if not starts or opens[0] < 0 or not all(j >= 0 and _is(_FENCE, lines[j]) for j in opens):
        return
    for opened, after in zip(opens, [*opens[1:], len(lines)], strict=True):
        closes = next((k for k in range(after - 1, opened, -1) if lines[k].strip() == "```"), opened)
        lines[opened] = lines[closes] = ""


def _is(pattern: re.Pattern[str], line: str) -> re.Match[str] | None:
    """A match of a line that is short enough to be a separator, a heading or a fence."""
    return pattern.match(line) if len(line) <= 120 else None


def _hide(line: str) -> str:
    """A line of code that would pass for a separator, marked so that it does not."""
    return "\0" + line if _is(_SEPARATOR, line) else line


def _style(line: str, label: re.Match[str]) -> _Style:
    """A number before the name, one after it; bold; a heading; indented."""
    mark = label[0][: label.start("name")]
    return bool(label["number"]), bool(label["after"]), "**" in mark, "#" in mark, line[:2].isspace()


def _blocks(lines: list[str], labels: "list[re.Match[str] | None]", every: bool = False) -> list[_Block]:
    """The labelled fields of each item; a label `Instruction` opens the next."""
    fields = [
        _Field(_PART[label["name"].lower()], _style(line, label), [label["rest"]], line)
        if label and (every or label["number"] or not label["kind"])
        else None
        for line, label in zip(lines, labels, strict=True)
    ]
    opening = Counter(field.style for field in fields if field and field.part == "instruction").most_common(1)
    numbered = bool(opening and opening[0][0][0])
    blocks: list[_Block] = []
    for number, (line, field) in enumerate(zip(lines, fields, strict=True)):
        if field and field.part == "instruction" and blocks and numbered and not field.style[0]:
            before = next((lines[i] for i in range(number - 1, -1, -1) if lines[i].strip()), "")
            field = field if _is(_SEPARATOR, before) or len(blocks[-1]) < 2 else None  # else it is quoted in an output
        if field and (field.part == "instruction" or not blocks):
            blocks.append([field])
        elif field:
            blocks[-1].append(field)
        elif blocks:
            blocks[-1][-1].lines.append(line)
    usual = _usual(blocks) if blocks else {}
    return [_without_quoted(block, usual) for block in blocks]


def _usual(blocks: list[_Block]) -> dict[str, _Style]:
    """How the labels of each part look in most items; of equals as `Instruction` does."""
    usual: dict[str, _Style] = {}
    for part in STRONG:
        styles = Counter(style for block in blocks for style in {f.style for f in block if f.part == part})
        usual[part] = max(styles, key=lambda s: (styles[s], s == blocks[0][0].style), default=blocks[0][0].style)
    return usual


def _without_quoted(block: _Block, usual: dict[str, _Style]) -> _Block:
    """Of several labels for a part, the one that looks as usual in this reply is the item's; the others are text."""
    own: _Block = []
    looks: dict[str, Counter[_Style]] = {part: Counter() for part in STRONG}
    for field in block:
        looks[field.part][field.style] += 1
    for field in block:
        unusual = field.style != usual[field.part] and looks[field.part][usual[field.part]]
        if own and unusual:
            own[-1].lines += [field.label, *field.lines[1:]]
        else:
            own.append(field)
    return own


def _separator(blocks: list[_Block]) -> str:
    """The sign of the lines that separate the items of this reply, besides ###; empty where there are none."""
    ends = [next((x for x in reversed(b[-1].lines) if x.strip() and not _is(_HEADING, x)), "") for b in blocks[:-1]]
    signs = [end.strip(" *_")[:1] or end.strip()[:1] for end in ends if _is(_SEPARATOR, end)]
    sign = max(signs, key=signs.count, default="")
    return sign if 2 * signs.count(sign) >= len(ends) else ""


def _finish(block: _Block, following: _Block | None, separator: str, headings: bool) -> str | None:
    """Take from an item what stands between it and the next. Returns what came after a separator, None without one."""
    for field in block[:-1]:
        _trim(field.lines, "#", False, False)
    lines, rest = block[-1].lines, None
    end = next((i for i, line in enumerate(lines) if i and "###" in line and _is(_HARD, line)), None)
    inline = re.search(r"(?<=\S)\s+###\s*$", "\n".join(lines[-2:])) if following is None else None
    if end is not None:
        rest = "\n".join(lines[end + 1 :])
        del lines[end:]
    elif following is None and not inline:
        _drop_farewell(lines)
    titled = following is not None and not following[0].style[0]
    _trim(lines, "" if rest is not None else separator, titled, headings)
    return "" if rest is None and inline else rest


def _trim(lines: list[str], separator: str, titled: bool, headings: bool) -> None:
    """Without the separators at the end of a field and, before a `titled` item, the heading of that one."""
    numbers = 1  # a line `3.` or a heading `3. Title` goes once: more of them are a list
    while len(lines) > 1:
        line = lines[-1]
        number = re.fullmatch(r"\s*[*_]*\d+\s*[.)、][*_]*\s*", line) or headings and _is(_NUMBERED_HEADING, line)
        sign = (line.strip(" *_") or line.strip())[:1] if _is(_SEPARATOR, line) else ""
        parted = sign and sign in {"#", separator}
        if not line.strip() or parted or titled and _is(_HEADING, line):
            lines.pop()
        elif titled and numbers and number and any(other.strip() for other in lines[:-1]):
            numbers -= 1
            lines.pop()
        else:
            break
    lines[-1] = re.sub(r"(?<=\S)\s+###$", "", lines[-1].rstrip())


def _drop_farewell(lines: list[str]) -> None:
    """The last paragraph of a reply, where the model speaks of its tasks to whoever asked, and the line above it."""
    text = "\n".join(lines).rstrip()
    start = text.rfind("\n\n")
    if start <= 0 or not _FAREWELL.match(last := text[start:].strip()) or not _OF_TASKS.search(last):
        return
    lines[:] = text[:start].rstrip().split("\n")
    while len(lines) > 1 and _is(_SEPARATOR, lines[-1]):
        lines.pop()


def _drop_asides(blocks: list[_Block]) -> None:
    """Without a line such as `Category: …` below a blank line at the end of an item, where every item has one there."""
    lasts = [block[-1].lines for block in blocks]
    if len(lasts) > 1 and all(
        len(x) > 2 and _is_aside(x[-1]) and not x[-2].strip() and any(y.strip() for y in x[:-2]) for x in lasts
    ):
        for lines in lasts:
            del lines[-2:]


def _is_aside(line: str) -> bool:
    return len(line) <= 120 and _ASIDE.fullmatch(line) is not None


def _item(block: _Block) -> Item | Dropped:
    parts = [field.part for field in block]
    if len(set(parts)) < len(parts):
        return Dropped("repeated field", _text(block))
    values = {field.part: _value(field.lines) for field in block}
    return whole(_bare(values), _text(block))


def _bare(values: dict[str, str]) -> dict[str, str]:
    """Without the fence or the quotation marks that stand around instruction and output alike."""
    for around in (_FENCED, _QUOTED):
        if all(around.fullmatch(values.get(part, "")) for part in ("instruction", "output")):
            values = {part: found[1] if (found := around.fullmatch(v)) else v for part, v in values.items()}
    return values


def _value(lines: list[str]) -> str:
    lines = [line.removeprefix("\0") for line in lines]
    if not lines[0].strip():
        lines = _dedent(lines[1:])
    text = "\n".join(lines).strip("\n").rstrip()
    if text.count("**") % 2 and text.endswith("**"):
        text = text[:-2].rstrip()  # the whole line, label and all, was bold
    return text.strip() if "\n" not in text else text


def _text(block: _Block) -> str:
    return "\n".join(f"{f.part}: " + "\n".join(f.lines) for f in block).replace("\0", "").strip()
