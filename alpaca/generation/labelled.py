"""Items of a reply in labelled text: `1. Instruction: …`, `1. Input:`, `1. Output:`, separated by ###.

Models bend the format: other numbering, Markdown, full-width signs, headings between the items, labels or ### inside an
output. What decides is how the reply itself does it: if its own labels bear numbers, a label without one inside an output
is part of that output; if it says `Output`, then `Answer:` is an ordinary word. Knows no JSON.
"""

import re
from collections import Counter

from alpaca.generation.item_ends import drop_asides, finish, separator_of
from alpaca.generation.items import STRONG, Dropped, Item, whole
from alpaca.generation.reply_forms import dedent, forms, plain
from alpaca.generation.reply_lines import (
    COLON,
    FENCE,
    HEADING,
    HIDDEN,
    NAMED,
    NUMBERED_HEADING,
    PART,
    SEPARATOR,
    Block,
    Field,
    Style,
    is_line,
    labels_in,
    may_label,
    value_of,
    visible,
)

_FENCED = re.compile(r"```\w*\n((?:(?!```).)*?)\n?```", re.S)
_QUOTED = re.compile(r'"([^"\n]*)"')


def read(text: str, cut: bool = False, opening: str = "") -> list[Item | Dropped]:
    """The items of a reply in order, dropped ones in their places; empty where there is no label at all."""
    text = plain(text)
    first = next((line for line in text.split("\n") if line.strip()), "")
    if opening and not labels_in(text, COLON).match(first.strip()):
        text = opening + " " + text.lstrip()
    if not NAMED.search(text):
        return []
    best: list[Item | Dropped] = []
    for form, end, every in forms(text):
        results = _read(form, end, every, cut)
        if any(isinstance(r, Item) for r in results):
            return results
        best = best or results
    return best


def _read(text: str, end: str, every: bool, cut: bool) -> list[Item | Dropped]:
    label, lines = labels_in(text, end, every), text.split("\n")
    seen = visible(text).split("\n")
    labels = [label.match(line.lstrip()) if may_label(line, end) else None for line in seen]
    if not any(labels):
        return []
    _unlabel_code(lines, labels)
    first = next((i for i, match in enumerate(labels) if match), len(lines))
    _open_fences(lines, labels)
    above = next((line for line in reversed(lines[:first]) if line.strip() and not is_line(SEPARATOR, line)), "")
    if not (blocks := _blocks(lines, labels, every)):
        return []
    results: list[Item | Dropped] = []
    separator = separator_of(blocks) if len(blocks) > 1 else "-" if cut else "#"
    rests = [finish(b, n, separator, above) for b, n in zip(blocks, [*blocks[1:], None], strict=True)]
    drop_asides(blocks)
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
    if any(is_line(FENCE, line) for line in lines[:first][-2:]):
        return  # the items themselves stand in fences
    opened: int | None = None
    numbered = bool(first < len(lines) and labels[first] and labels[first]["number"])  # type: ignore[index]
    for i, line in enumerate(lines):
        match = labels[i]
        if opened is not None and numbered and match and match["number"]:
            opened = None  # it was never closed
        if not (fence := "```" in line and is_line(FENCE, value_of(match) if match else line)):
            continue
        if opened is None or fence[1]:
            opened = i
        else:
            labels[opened + 1 : i + 1] = [None] * (i - opened)
            lines[opened + 1 : i] = [_hide(line) for line in lines[opened + 1 : i]]
            opened = None


def _open_fences(lines: list[str], labels: "list[re.Match[str] | None]") -> None:
    """Where each item stands in a fence, without the lines of those fences."""
    starts = [i for i, match in enumerate(labels) if match and PART[match["name"].lower()] == "instruction"]
    opens = [next((j for j in range(i - 1, max(i - 4, -1), -1) if lines[j].strip()), -1) for i in starts]
    if not starts or opens[0] < 0 or not all(j >= 0 and is_line(FENCE, lines[j]) for j in opens):
        return
    for opened, after in zip(opens, [*opens[1:], len(lines)], strict=True):
        closes = next((k for k in range(after - 1, opened, -1) if lines[k].strip() == "```"), opened)
        lines[opened] = lines[closes] = ""


def _hide(line: str) -> str:
    """A line of code that would pass for a separator, marked so that it does not."""
    return HIDDEN + line if is_line(SEPARATOR, line) else line


def _style(line: str, label: re.Match[str]) -> Style:
    """A number before the name, one after it; bold; a heading; indented; the name."""
    mark = label[0][: label.start("name")]
    return (
        bool(label["number"]),
        bool(label["after"]),
        "**" in mark,
        "#" in mark,
        line[:2].isspace(),
        label["name"].lower(),
    )


def _blocks(lines: list[str], labels: "list[re.Match[str] | None]", every: bool = False) -> list[Block]:
    """The labelled fields of each item; a label `Instruction` opens the next."""
    fields = [
        Field(PART[label["name"].lower()], _style(line, label), [value_of(label)], line)
        if label and (every or label["number"] or not label["kind"])
        else None
        for line, label in zip(lines, labels, strict=True)
    ]
    openings = Counter(field.style for field in fields if field and field.part == "instruction")
    blocks: list[Block] = []
    for number, (line, field) in enumerate(zip(lines, fields, strict=True)):
        if field and field.part == "instruction" and blocks and _quotes(field, blocks[-1], openings, lines[:number]):
            field = None
        if field and (field.part == "instruction" or not blocks):
            blocks.append([field])
        elif field:
            blocks[-1].append(field)
        elif blocks:
            blocks[-1][-1].lines.append(line)
    usual = _usual(blocks) if blocks else {}
    return [_without_quoted(block, usual) for block in blocks]


def _quotes(field: Field, block: Block, openings: Counter[Style], above: list[str]) -> bool:
    """Whether a label `Instruction` unlike that of most items stands in the text of an item and opens none itself."""
    usual = openings.most_common(1)[0][0]
    if field.style == usual:
        return False
    before = next((line for line in reversed(above) if line.strip()), "")
    if is_line(SEPARATOR, before):
        return False
    last, holds = block[-1], len(block) > 1
    if usual[0] and not field.style[0]:
        return holds
    if last.part != "instruction" and not any(line.strip() for line in last.lines):
        return above[-1] is before  # the value would be empty
    heading = is_line(HEADING, before) or is_line(NUMBERED_HEADING, before)
    within = above[-1] is before and not heading and any(line.strip() for field in block for line in field.lines)
    return within and openings[field.style] < openings[usual]


def _usual(blocks: list[Block]) -> dict[str, Style]:
    """How the labels of each part look in most items; of equals as `Instruction` does."""
    usual: dict[str, Style] = {}
    first = blocks[0][0].style
    for part in STRONG:
        styles = Counter(style for block in blocks for style in {f.style for f in block if f.part == part})
        usual[part] = max(styles, key=lambda s: (styles[s], s[:-1] == first[:-1]), default=first)
    return usual


def _without_quoted(block: Block, usual: dict[str, Style]) -> Block:
    """Of several labels for a part, the one that looks as usual in this reply is the item's; the others are text."""
    own: Block = []
    looks: dict[str, Counter[Style]] = {part: Counter() for part in STRONG}
    for field in block:
        looks[field.part][field.style] += 1
    for field in block:
        unusual = field.style != usual[field.part] and looks[field.part][usual[field.part]]
        if own and unusual:
            own[-1].lines += [field.label, *field.lines[1:]]
        else:
            own.append(field)
    return own


def _item(block: Block) -> Item | Dropped:
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
    lines = [line.removeprefix(HIDDEN) for line in lines]
    if not lines[0].strip():
        lines = dedent(lines[1:])
    text = "\n".join(lines).strip("\n").rstrip()
    if text.count("**") % 2 and text.endswith("**"):
        text = text[:-2].rstrip()  # the whole line, label and all, was bold
    return text.strip() if "\n" not in text else text


def _text(block: Block) -> str:
    return "\n".join(f"{f.part}: " + "\n".join(f.lines) for f in block).replace(HIDDEN, "").strip()
