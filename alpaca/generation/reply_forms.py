"""A reply with each of its labels on a line of its own, in the ways in which models write them. Knows no item."""

import os
import re
from bisect import bisect_left
from collections.abc import Iterator

from alpaca.generation.items import STRONG
from alpaca.generation.reply_lines import ANY_NAME, BARE, COLON, FENCE, HIDDEN, PART, is_line, labels_named, may_label

_LONG = 10_000  # lines of a reply that is looked at in its likeliest form alone
_TAG = re.compile(rf"([<\[])(/?)({ANY_NAME})[_ -]?\d*(?:\s[^<>\[\]\n]{{0,200}}?)?(/?)[>\]]", re.I)
_FRAME = r"[<\[]/?(?:task|item|example|row|sample|entry|pair|record|instance|data)s?(?:_\d+)?(?:\s[^<>\n]{0,200})?[>\]]"
_FRAMES = re.compile(rf"(?:^|(?<=[>\]]))[^\S\n]*(?P<frame>{_FRAME})[^\S\n]*(?=$|[<\[])", re.I | re.M)
_FRAME_OR_END = re.compile(rf"{_FRAME}|\Z", re.I)
_MOST_CLOSING = 8  # tags of its own name that a field may hold and still be read whole
_SPACE = re.compile(r"\s*")
_CDATA = re.compile(r"\s*<!\[CDATA\[(.*)\]\]>\s*", re.S)
_INLINE = re.compile(rf"(?<=\S)[ \t]+(?=\#?\d+\s*[.)、]\s*(?:{'|'.join(n for names in STRONG.values() for n in names)})\s*[:：])", re.I)  # fmt: skip
_SPLIT = re.compile(
    rf"(?<=\S)[ \t]+(?=[*_]{{0,3}}(?:{'|'.join(STRONG['input'] + STRONG['output'])})[*_]{{0,3}}\s?[:：])", re.I
)
_TITLED = re.compile(
    rf"^[#*_ ]*(?:task |任务|任務)?\d{{1,4}}\s?[.):、：]\s*(?P<text>\S.*?)[*_ ]*\n+(?=\W*(?:{'|'.join(STRONG['input'] + STRONG['output'])})[*_ ]*[:：])",
    re.I | re.M,
)


def plain(text: str) -> str:
    """Without what surrounds the whole reply: quotation marks, a fence, indentation."""
    lines = dedent(text.strip("\n").split("\n"))
    filled = [line for line in lines if line.strip()]
    if filled and all(line.lstrip().startswith(">") for line in filled):
        lines = [re.sub(r"^\s*> ?", "", line) for line in lines]
    if len(filled) > 2 and is_line(FENCE, filled[0]) and filled[-1].strip() == "```":
        inner = "\n".join(lines).split("\n", 1)[1].rstrip()[:-3]
        return inner if sum(bool(is_line(FENCE, line)) for line in filled) % 2 == 0 else "\n".join(lines)
    return "\n".join(lines)


def dedent(lines: list[str]) -> list[str]:
    """Without the space in front that all lines have; where they have none, to the letter as they were."""
    indents = [line[: len(line) - len(line.lstrip())] for line in lines if line.strip()]
    common = len(os.path.commonprefix(indents))
    return [line[common:] for line in lines] if common else lines


def forms(text: str) -> Iterator[tuple[str, str, bool]]:
    """The text with each of its labels on a line of its own, how a label ends, and whether every name counts; the
    likeliest first."""
    yield _untagged(text), COLON, False
    if text.count("\n") > _LONG:
        return
    yield _INLINE.sub("\n", re.sub(r"<br\s*/?>", "\n", text)), COLON, False
    yield text, BARE, False
    yield _TITLED.sub(r"Instruction: \g<text>\n", text), COLON, False
    yield _SPLIT.sub("\n", text), COLON, False
    yield text, COLON, True
    if "\n" not in text.strip() and "\\n" in text:
        yield text.replace("\\n", "\n"), COLON, False


def _untagged(text: str) -> str:
    """<output>…</output> as a line `output: …`, each tag with the one that closes it; where tags are the labels. Its
    lines are marked, so that none passes for a label or a separator."""
    if "</" not in text and "[/" not in text:
        return text
    frames = {match.start("frame") for match in _FRAMES.finditer(text)}
    tags = [tag for tag in _TAG.finditer(text) if tag.start() not in frames]
    if not tags or _labelled(text[: tags[0].start()]):
        return text
    closing: dict[str, list[re.Match[str]]] = {}
    for tag in tags:
        if tag[2]:
            closing.setdefault(tag[1] + tag[3].lower(), []).append(tag)
    parts: list[str] = []
    done, seen = 0, set[str]()
    for tag in tags:
        part = PART[tag[3].lower()]
        ends = closing.get(tag[1] + tag[3].lower(), [])
        at = bisect_left(ends, tag.end(), key=re.Match.start)
        if tag[2] or tag.start() < done or at == len(ends) and not tag[4]:
            continue
        seen = {part} if part == "instruction" else seen | {part}
        end = tag if tag[4] else _end_of(ends[at : at + _MOST_CLOSING], text, seen)
        inner = "" if tag[4] else _CDATA.sub(r"\1", text[tag.end() : end.start()]).strip()
        inner = ("\n" + inner).replace("\n", "\n" + HIDDEN)
        parts.append(f"{_FRAMES.sub('', text[done : tag.start()])}\n{tag[3]}:{inner}\n")
        done = end.end()
    return "".join([*parts, _FRAMES.sub("", text[done:])]) if parts else text


def _end_of(ends: list[re.Match[str]], text: str, seen: set[str]) -> re.Match[str]:
    """Of the tags that may close a field the first before a frame, another part of the item, the next item or the end."""
    for end in ends:
        if end is not ends[0] and any(_opens(tag) for tag in _TAG.finditer(text, ends[0].end(), end.start())):
            break
        after = _SPACE.match(text, end.end()).end()  # type: ignore[union-attr]
        following = _TAG.match(text, after)
        unseen = following and not following[2] and PART[following[3].lower()] not in seen
        if _FRAME_OR_END.match(text, after) or following and (unseen or _opens(following)):
            return end
    return ends[0]


def _opens(tag: re.Match[str]) -> bool:
    return not tag[2] and PART[tag[3].lower()] == "instruction"


def _labelled(text: str) -> bool:
    """Whether a text has a label before any tag."""
    label = labels_named(STRONG["instruction"], COLON)
    return any(label.match(line.strip()) for line in text.split("\n") if may_label(line, COLON))
