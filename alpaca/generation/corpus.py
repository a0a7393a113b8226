"""A user's own text as the ground of instructions: files -> passages with their places, and how far an answer is supported.

Knows no teacher and no rows.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path

from alpaca.errors import UserError
from alpaca.generation import documents
from alpaca.generation.progress import Reading
from alpaca.generation.shingles import Passages
from alpaca.generation.tokens import tokenizer, words

_WORD = 16  # characters of the longest words, on average: what has more is data, such as a picture in base64
_STOP = frozenset(words("stop_en") + words("stop_zh"))


@dataclass(frozen=True)
class Passage:
    """A piece of text; characters start to end of the text of `file`."""

    file: str
    start: int
    end: int
    text: str

    @cached_property
    def key(self) -> str:
        """Of the text, wherever it stands."""
        return hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest()[:16]

    @property
    def place(self) -> str:
        """For a person."""
        return f"{self.file}, characters {self.start} to {self.end}"


def read_corpus(path: Path, language: str, longest: int, shortest: int) -> tuple[list[Passage], Counter[str]]:
    """The passages of a file or folder, and how many were dropped for each reason. Raises UserError when none is left.

    longest, shortest: in tokens of the language. The order is that of the files' names, so that a run can be resumed.
    """
    tokens, dropped, passages, earlier = tokenizer(language), Counter[str](), list[Passage](), Passages()
    files = documents.find(path, dropped)
    sizes = [file.stat().st_size for file in files]
    reading = Reading(path, len(files), sum(sizes))
    for file, before, size in zip(files, accumulate(sizes, initial=0), sizes, strict=False):
        read = 0
        for text_name, text in documents.read(file, _name(file, path), dropped):
            for start, end in split(text, tokens, longest):
                piece = text[start:end]
                found = tokens(piece)
                reason = _poor(piece, len(found), shortest)
                if reason is None and not earlier.add(found):
                    reason = "near-duplicate passage"
                if reason:
                    dropped[reason] += 1
                else:
                    passages.append(Passage(text_name, start, end, piece))
                reading.show(before + min(read + end, size), len(passages))
            read += len(text)
    reading.close()
    dropped = +dropped
    if not passages:
        raise UserError(
            f"source.path={path} holds no usable passage ({dict(dropped) or 'no file'}): it takes {', '.join(documents.KINDS)} files with running text"
        )
    return passages, dropped


def _name(file: Path, path: Path) -> str:
    return file.name if path.is_file() else file.relative_to(path).as_posix()


def split(text: str, tokens: Callable[[str], list[str]], longest: int) -> Iterator[tuple[int, int]]:
    """Spans of at most `longest` tokens, and of as many characters as these take at most: whole paragraphs put together,
    long ones cut between sentences, else anywhere."""
    begin = stop = held = 0
    for paragraph in _spans(text, 0, len(text), r"\n\s*\n"):
        for start, end, size in _fit(text, *paragraph, tokens, longest):
            if stop and held + size <= longest and end - begin <= longest * _WORD:
                stop, held = end, held + size
                continue
            if stop:
                yield begin, stop
            begin, stop, held = start, end, size
    if stop:
        yield begin, stop


def _fit(text: str, start: int, end: int, tokens: Callable[[str], list[str]], longest: int) -> Iterator[tuple[int, int, int]]:  # fmt: skip
    """Pieces of text[start:end] that are short enough, with their sizes in tokens."""
    if (size := _size(text, start, end, tokens, longest)) is not None:
        yield start, end, size
        return
    sentences = list(_spans(text, start, end, r"[.!?](?=\s)|[。！？；]|\n"))
    if len(sentences) < 2:
        yield from _halve(text, start, end, tokens, longest)
        return
    for sentence in sentences:
        yield from _fit(text, *sentence, tokens, longest)


def _halve(text: str, start: int, end: int, tokens: Callable[[str], list[str]], longest: int) -> Iterator[tuple[int, int, int]]:  # fmt: skip
    if (size := _size(text, start, end, tokens, longest)) is not None:
        yield start, end, size
        return
    middle = (start + end) // 2
    space = text.rfind(" ", start + 1, middle)
    middle = space if space > start else middle
    yield from _halve(text, start, middle, tokens, longest)
    yield from _halve(text, middle, end, tokens, longest)


def _size(text: str, start: int, end: int, tokens: Callable[[str], list[str]], longest: int) -> int | None:
    """Tokens of text[start:end], or None where they or the characters are too many."""
    size = len(tokens(text[start:end])) if end - start <= longest * _WORD else longest + 1
    return size if size <= longest else None


def _spans(text: str, start: int, end: int, boundary: str) -> Iterator[tuple[int, int]]:
    """The pieces of text[start:end], each up to the end of a match of `boundary`, without the space around them."""
    for stop in chain((m.end() for m in re.compile(boundary).finditer(text, start, end)), [end]):
        piece = text[start:stop]
        if piece.strip():
            yield start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
        start = stop


def _poor(text: str, tokens: int, shortest: int) -> str | None:
    """Why a passage is not worth a request: too short, no running text, or the same line again and again."""
    if tokens < shortest:
        return "passage too short"
    visible = "".join(text.split())
    if len(visible) > tokens * _WORD:
        return "passage has few words for its length"
    if sum(map(str.isalpha, visible)) < 0.6 * len(visible):
        return "passage is mostly signs and digits"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) >= 6 and len(set(lines)) < 0.5 * len(lines):
        return "passage repeats itself"
    return None


def support(passage: str, instruction: str, output: str, language: str) -> float:
    """Share of the output's distinct content words that the passage holds.

    Words that the instruction already gave count only where there are no others; an output without any has 1.
    """
    tokens = tokenizer(language)
    said = {t for t in tokens(output) if t not in _STOP}
    said = said - set(tokens(instruction)) or said
    return len(said & set(tokens(passage))) / len(said) if said else 1.0
