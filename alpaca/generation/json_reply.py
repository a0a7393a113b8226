"""Items of a reply in JSON, in whatever a model wraps, nests or spoils it. Knows no labelled text."""

import ast
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

from alpaca.generation.items import STRONG, WEAK, Dropped, Item, as_text, whole

_PART = {name: part for group in (STRONG, WEAK) for part, names in group.items() for name in names}
_SPOILT = re.compile(r'(?P<string>"(?:\\.|[^"\\]++)*+(?:"|\\?\Z))|//[^\n]*|/\*|,(?=\s*[}\]])', re.S)
_OPENS_ITEM = re.compile(rf"\{{\s*[\"']?(?:{'|'.join(_PART)})[\"']?\s*:|\{{[^{{}}:]*\Z", re.I)
_TRIES = 1000  # places where a value may begin, so that no reply takes for ever


def read(text: str, cut: bool = False) -> list[Item | Dropped]:
    """The items of a reply in order, dropped ones in their places; empty where there is none."""
    results, mended = _read(text, cut), _read(_mended(text), cut)
    return max(results, mended, key=lambda found: sum(isinstance(r, Item) for r in found))


def _mended(text: str) -> str:
    """Without comments, and without commas before a closing bracket; strings stay as they are."""
    parts, start, last = [], 0, text.rfind("*/")
    while (found := _SPOILT.search(text, start)) is not None:
        parts.append(text[start : found.start()])
        start = found.end()
        if found["string"] or found[0] == "/*" and start > last:
            parts.append(found[0])
        elif found[0] == "/*":
            start = text.index("*/", start) + 2
    return "".join([*parts, text[start:]])


def _read(text: str, cut: bool) -> list[Item | Dropped]:
    results: list[Item | Dropped] = []
    for value, tail in _values(text):
        results += [Dropped("broken JSON", tail)] if value is None else [_from_object(v) for v in _objects(value)]
    broken = results and isinstance(results[-1], Dropped) and results[-1].reason == "broken JSON"
    if cut and broken:
        results[-1] = Dropped("cut by length", results[-1].text)  # type: ignore[union-attr]
    return results


def _values(text: str) -> Iterator[tuple[Any, str]]:
    """The JSON values in a text, one after another; (None, text) for an item that is broken."""
    decoder, start = json.JSONDecoder(strict=False), 0
    for _ in range(_TRIES):
        found = re.compile(r"[\[{]").search(text, start)
        if found is None:
            return
        try:
            value, start = _decode(text, found.start(), decoder)
            yield value, ""
        except RecursionError:
            return
        except ValueError:
            start = found.start() + 1
            if _OPENS_ITEM.match(text, found.start()):
                following = _OPENS_ITEM.search(text, start)
                yield None, text[found.start() : following.start() if following else len(text)]


def _decode(text: str, start: int, decoder: json.JSONDecoder) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, start)
    except ValueError:
        end = text.rfind("]" if text[start] == "[" else "}") + 1
        if "'" not in text[start : start + 20] or end <= start:
            raise
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                return ast.literal_eval(text[start:end]), end  # as Python prints it
        except (ValueError, SyntaxError, MemoryError, TypeError):
            raise ValueError from None


def _objects(value: Any) -> Iterator[Any]:
    """What may be items in a value: objects with a part of one, however deep; in a list beside such, anything."""
    if isinstance(value, dict):
        if any(isinstance(k, str) and k.strip().lower() in _PART for k in value):
            yield value
        else:
            for inner in value.values():
                yield from _objects(inner)
    elif isinstance(value, list):
        mixed = any(isinstance(v, dict) for v in value)
        for inner in value:
            yield from _objects(inner) if isinstance(inner, (dict, list)) else [inner] if mixed else []


def _from_object(value: Any) -> Item | Dropped:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if not isinstance(value, dict):
        return Dropped("not an object", text)
    parts: dict[str, Any] = {}
    for key, part in value.items():
        name = _PART.get(str(key).strip().lower())
        if name and (name not in parts or str(key).strip().lower() in STRONG[name]):
            parts[name] = part
    if parts.get("instruction") is not None and not isinstance(parts["instruction"], str):
        return Dropped("a field is no text", text)
    return whole({k: as_text(v) for k, v in parts.items() if v is not None}, text)
