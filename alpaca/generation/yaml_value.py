"""The value of one name in YAML that a model wrote, and how sure it is that the text was meant so.

A model is no YAML writer. What YAML cannot read, as a plain value with a colon in it, is taken to the letter where that is
certain; what YAML reads otherwise than it stands there is unclear. Knows no items.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from alpaca.generation.items import clear_input

Look = Literal["block", "quoted", "needed", "wrapped", "plain", "empty", "unclear", "broken"]
_BLOCK = re.compile(r"([|>])[+-]?([1-9]?)[+-]?[ \t]*(?:#.*)?")
_QUOTED = re.compile(r'"(?:\\.|[^"\\]++)*+"|\'(?:\'\'|[^\']++)*+\'', re.S)
_COMMENT = re.compile(r"[ \t]*(?:[ \t]#[^\n]*)?")
_NEEDED = re.compile(r"\\|''|: |:$| #|\n|^[\[\]{}#&!*|>%@`,?'\"-]|^(?:[-+.\d][-+.\d_:eE]*|true|false|yes|no|on|off|null)$", re.I | re.M)  # fmt: skip
_OTHERWISE = re.compile(r"[&!#]|.*[ \t]#")  # a sign or a comment to YAML
_SPACE = re.compile(r"(?<! ) (?! )")
_STRUCTURE = re.compile(r"-(?: |$)|[\w\"'][^:]{0,29}:(?: |$)")
_WIDTH = 80  # at which YAML writers wrap


@dataclass(frozen=True)
class Value:
    """`look`: a block, in quotation marks (`needed`: and not without), wrapped by a YAML writer, plain, empty (also a way
    to say that there is no input), unclear, broken."""

    look: Look
    text: str = ""


def read(first: str, rest: list[str], column: int, start: int = 0) -> Value:
    """The value that begins on the line of its name, from place `start`, and goes on in lines deeper than `column`."""
    first, rest = first.strip(), _without_blank_ends(rest)
    if not first and rest:
        opened = next(number for number, line in enumerate(rest) if line.strip())
        first, rest = rest[opened].strip(), rest[opened + 1 :]
        return Value("unclear") if _STRUCTURE.match(first) else read(first, rest, column, column)
    if block := _BLOCK.fullmatch(first):
        return _block(block[1], rest, column + int(block[2]) if block[2] else 0)
    lines = [" " * start + first, *rest]
    if first[:1] in ('"', "'"):
        return _quoted(first, lines)
    if not rest:
        return _plain(first)
    if "" in map(str.strip, rest) or not _is_wrapped(lines):
        return Value("unclear")
    return Value("wrapped", " ".join(map(str.strip, lines))) if _plain(first).look == "plain" else Value("unclear")


def is_block(first: str) -> bool:
    """Whether a value that begins so is a block."""
    return _BLOCK.fullmatch(first.strip()) is not None


def _without_blank_ends(lines: list[str]) -> list[str]:
    end = len(lines)
    while end and not lines[end - 1].strip():
        end -= 1
    return lines[:end]


def _block(sign: str, lines: list[str], indent: int) -> Value:
    indents = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()] or [indent]
    if min(indents) < (indent or indents[0]):
        return Value("broken")
    inner = [line[indent or indents[0] :] for line in lines]
    if sign == "|":
        return Value("block", "\n".join(inner))
    return _loaded(">1-\n" + "\n".join(" " + line if line.strip() else "" for line in inner), "block")


def _quoted(first: str, lines: list[str]) -> Value:
    text = "\n".join([first, *lines[1:]])
    whole = _QUOTED.match(text)
    if whole is None or not _COMMENT.fullmatch(text, whole.end()):
        literal = len(lines) == 1 and first[0] != first[-1] and whole and not _OTHERWISE.match(text, whole.end())
        return _plain(first) if literal else Value("broken")
    if not _is_wrapped(lines):
        return Value("unclear")
    return _loaded(whole[0], "needed" if _NEEDED.search(whole[0][1:-1]) else "quoted" if whole[0][1:-1] else "empty")


def _is_wrapped(lines: list[str]) -> bool:
    """Whether each line ends where a YAML writer breaks it, so that the break is a space."""
    return all(
        line.endswith("\\")
        or len(line) + 1 + len(after.split()[0]) > _WIDTH >= len(line) - len(_SPACE.split(line)[-1]) - 1
        for line, after in zip(lines, lines[1:], strict=False)
        if line.strip() and after.strip()
    )


def _plain(line: str) -> Value:
    if line == "~" or not clear_input(line):
        return Value("empty", "" if line == "~" else line)
    return Value("unclear") if _OTHERWISE.match(line) else Value("plain", line)


def _loaded(text: str, look: Look) -> Value:
    import yaml

    try:
        found: Any = json.loads(text) if text[0] == '"' and "\n" not in text else None
    except ValueError:
        found = None
    try:
        found = found if found is not None else yaml.load(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except (yaml.YAMLError, ValueError):
        return Value("broken")
    return Value(look, found) if isinstance(found, str) else Value("broken")
