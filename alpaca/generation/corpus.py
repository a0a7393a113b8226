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

from alpaca import console
from alpaca.errors import UserError
from alpaca.generation import documents, passage_index
from alpaca.generation.passage_index import Index
from alpaca.generation.progress import Reading
from alpaca.generation.shingles import Passages
from alpaca.generation.tokens import tokenizer, words

_WORD = 16  # characters of the longest words, on average: what has more is data, such as a picture in base64
_RULES = 1  # raised when other passages come of the same text
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


def read_corpus(
    path: Path, language: str, longest: int, shortest: int, index: Path | None = None
) -> tuple[list[Passage], Counter[str], Index | None]:
    """The passages of a file or folder, how many were dropped for each reason, and a new index, if any, to be saved once
    the run is known to be meant. Raises UserError when no passage is left.

    longest, shortest: in tokens of the language. The order is that of the files' names, so that a run can be resumed.
    index: file that says where they were found before; where it is of other files, what it has is still preferred to new
    passages that are alike.
    """
    dropped = Counter[str]()
    files = [
        (file.name if path.is_file() else file.relative_to(path).as_posix(), file)
        for file in documents.find(path, dropped)
    ]
    of = passage_index.identity(files, [_RULES, language, longest, shortest]) if index else ""
    before = passage_index.load(index) if index else None
    if before and before.of == of and (same := _found_again(files, before)):
        return same, Counter(before.dropped), None
    known = {key for *_, key in before.passages} if before else set()
    passages, earlier, taken = list[Passage](), Passages(), set[str]()
    if known:
        with console.muted():
            for passage, found in _pieces(path, files, language, longest, shortest, Counter()):
                if passage.key in known:
                    earlier.add(found)
    for passage, found in _pieces(path, files, language, longest, shortest, dropped):
        if passage.key in taken or passage.key not in known and not earlier.add(found):
            dropped["near-duplicate passage"] += 1
        else:
            taken.add(passage.key)
            passages.append(passage)
    dropped = +dropped
    if not passages:
        raise UserError(
            f"source.path={path} holds no usable passage ({dict(dropped) or 'no file'}): it takes {', '.join(documents.KINDS)} files with running text"
        )
    rows = [(p.file, p.start, p.end, p.key) for p in passages]
    return passages, dropped, Index(of, dict(dropped), rows) if index else None


def _found_again(files: list[tuple[str, Path]], index: Index) -> list[Passage] | None:
    """The passages of an index; None where the files do not hold them as it says."""
    places: dict[str, list[tuple[int, int, str]]] = {}
    for name, start, end, key in index.passages:
        places.setdefault(name, []).append((start, end, key))
    passages = []
    for name, file in files:
        for text_name, text in documents.read(file, name, Counter()):
            for start, end, key in places.pop(text_name, []):
                passages.append(Passage(text_name, start, end, text[start:end]))
                if passages[-1].key != key:
                    return None
    return None if places else passages


def _pieces(
    path: Path, files: list[tuple[str, Path]], language: str, longest: int, shortest: int, dropped: Counter[str]
) -> Iterator[tuple[Passage, list[str]]]:
    """The passages worth a request, with their tokens; the others are counted."""
    tokens, count, sizes = tokenizer(language), 0, [file.stat().st_size for _, file in files]
    reading = Reading(path, len(files), sum(sizes))
    for (name, file), before, size in zip(files, accumulate(sizes, initial=0), sizes, strict=False):
        read = 0
        for text_name, text in documents.read(file, name, dropped):
            for start, end in split(text, tokens, longest):
                passage = Passage(text_name, start, end, text[start:end])
                found = tokens(passage.text)
                if reason := _poor(passage.text, len(found), shortest):
                    dropped[reason] += 1
                else:
                    count += 1
                    yield passage, found
                reading.show(before + min(read + end, size), count)
            read += len(text)
    reading.close()


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
