"""A user's own text as the ground of instructions: files -> passages with their places, and how far an answer is supported.

Knows no teacher and no rows.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alpaca.errors import UserError
from alpaca.generation import documents
from alpaca.generation.dedupe import Pool
from alpaca.generation.tokens import tokenizer, words

_STOP = frozenset(words("stop_en") + words("stop_zh"))


@dataclass(frozen=True)
class Passage:
    """A piece of text; characters start to end of the text of `file`."""

    file: str
    start: int
    end: int
    text: str


def read_corpus(path: Path, language: str, longest: int, shortest: int) -> tuple[list[Passage], Counter[str]]:
    """The passages of a file or folder, and how many were dropped for each reason. Raises UserError when none is left.

    longest, shortest: in tokens of the language. The order is that of the files' names, so that a run can be resumed.
    """
    tokens, dropped, passages = tokenizer(language), Counter[str](), []
    pool = Pool(language, threshold=0.7)
    for file in documents.find(path, dropped):
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        for text_name, text in documents.read(file, name, dropped):
            for start, end in split(text, tokens, longest):
                piece = text[start:end]
                reason = _poor(piece, len(tokens(piece)), shortest)
                if reason is None and pool.accept([piece])[0] is not None:
                    reason = "near-duplicate passage"
                if reason:
                    dropped[reason] += 1
                else:
                    passages.append(Passage(text_name, start, end, piece))
    dropped = +dropped
    if not passages:
        raise UserError(
            f"source.path={path} holds no usable passage ({dict(dropped) or 'no file'}): it takes {', '.join(documents.KINDS)} files with running text"
        )
    return passages, dropped


def split(text: str, tokens: Callable[[str], list[str]], longest: int) -> list[tuple[int, int]]:
    """Spans of at most `longest` tokens: whole paragraphs put together, long ones cut between sentences, else anywhere."""
    units = [unit for start, end in _spans(text, r"\n\s*\n") for unit in _fit(text, start, end, tokens, longest)]
    spans: list[tuple[int, int, int]] = []
    for start, end in units:
        size = len(tokens(text[start:end]))
        if spans and spans[-1][2] + size <= longest:
            spans[-1] = (spans[-1][0], end, spans[-1][2] + size)
        else:
            spans.append((start, end, size))
    return [(start, end) for start, end, _ in spans]


def _fit(text: str, start: int, end: int, tokens: Callable[[str], list[str]], longest: int) -> list[tuple[int, int]]:
    if len(tokens(text[start:end])) <= longest:
        return [(start, end)]
    sentences = _spans(text[start:end], r"(?<=[.!?])\s+|(?<=[。！？；])|\n")
    if len(sentences) > 1:
        return [span for a, b in sentences for span in _fit(text, start + a, start + b, tokens, longest)]
    middle = (start + end) // 2
    space = text.rfind(" ", start + 1, middle)
    middle = space if space > start else middle
    return _fit(text, start, middle, tokens, longest) + _fit(text, middle, end, tokens, longest)


def _spans(text: str, boundary: str) -> list[tuple[int, int]]:
    """The pieces between matches of `boundary`, without the space around them."""
    edges, spans, start = [*((m.start(), m.end()) for m in re.finditer(boundary, text)), (len(text), len(text))], [], 0
    for end, after in edges:
        piece = text[start:end]
        if piece.strip():
            spans.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
        start = after
    return spans


def _poor(text: str, tokens: int, shortest: int) -> str | None:
    """Why a passage is not worth a request: too short, no running text, or the same line again and again."""
    if tokens < shortest:
        return "passage too short"
    visible = "".join(text.split())
    if sum(c.isalpha() for c in visible) < 0.6 * len(visible):
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
