"""Items of a reply in JSON, in whatever a model wraps, nests or spoils it. Knows no labelled text."""

import ast
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

from alpaca.generation.items import OTHER, STRONG, WEAK, Dropped, Item, as_text, whole

_PART = {
    name: part
    for group in (OTHER, STRONG, WEAK)
    for part, names in group.items()
    for name in names
    if len(name) > 1 or not name.isascii()
}
_PART |= {f"{name}s": part for name, part in _PART.items() if name.isascii()}
_STRONG = {name for names in STRONG.values() for name in names}
_SPOILT = re.compile(r'(?P<string>"(?:\\.|[^"\\]++)*+(?:"|\\?\Z))|//[^\n]*|/\*|,(?=\s*[}\]])', re.S)
_OPENS = re.compile(r"[\[{]")
_OPENS_ITEM = re.compile(
    rf"\{{\s*[\"']?(?:{'|'.join(_PART)})[\"']?\s*:(?!\s*(?:\[\s*)?\{{)|\{{[^{{}}:]*\Z", re.I
)  # not what only wraps an object or a list of them
_KEY = re.compile(r"^[\W\d_]*(?P<name>.*?)[\W_]*(?P<number>\d*)[\W_]*$", re.S)
_PYTHON = re.compile(r"'(?:\\.|[^'\\]++)*+'|\"(?:\\.|[^\"\\]++)*+\"|(?P<opens>[\[{(])|[\]})]", re.S)
_DEEPEST = 64  # objects and lists in each other, texts that hold JSON again included
_MOST = 20_000_000  # characters looked at in vain, so that no reply takes for ever
_EACH = 200  # what a place where no value begins costs besides
_COUNTED = 50  # the library counts the lines before such a place, that many characters in the time of one
_SLOW = 20  # Python's own parser, beside that of JSON


def read(text: str, cut: bool = False) -> list[Item | Dropped]:
    """The items of a reply in order, dropped ones in their places; empty where there is none."""
    results, mended = _read(text, cut), _read(_mended(text), cut)
    best = max(results, mended, key=_items)
    if not _items(best) and (inner := _unescaped(text)) is not None:
        return _read(inner, cut) or best
    return best


def _items(results: list[Item | Dropped]) -> int:
    return sum(isinstance(r, Item) for r in results)


def objects(value: Any) -> list[Item | Dropped]:
    """The items in a value that was read already, from whatever form."""
    return [_from_object(v) for v in _objects(value)]


def part_of(key: str) -> str:
    """The part of an item that a name stands for; "" for none."""
    return _key(key)[0]


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


def _unescaped(text: str) -> str | None:
    """JSON that was put into a string once more, with or without the quotation marks around it."""
    if '\\"' not in text:
        return None
    try:
        inner = json.loads(f'"{text.strip().strip(chr(34))}"', strict=False)
    except ValueError:
        return None
    return inner if isinstance(inner, str) else None


def _read(text: str, cut: bool) -> list[Item | Dropped]:
    results: list[Item | Dropped] = []
    for value, tail, reason in _values(text):
        results += [Dropped(reason, tail)] if reason else objects(value)
    if cut and results and isinstance(last := results[-1], Dropped) and last.reason == "broken JSON":
        results[-1] = Dropped("cut by length", last.text)
    return results


def _values(text: str) -> Iterator[tuple[Any, str, str]]:
    """The JSON values in a text, one after another: (value, "", ""); for what is no value (None, text, the reason)."""
    decoder, start, vain = json.JSONDecoder(strict=False), 0, 0
    while (found := _OPENS.search(text, start)) is not None:
        begin = start = found.start()
        try:
            if vain > _MOST:
                raise RecursionError
            value, start = _decode(text, begin, decoder)
            yield value, "", ""
        except RecursionError:
            if lost := _OPENS_ITEM.search(text, start):
                yield None, text[lost.start() :], "too broken to read on"
            return
        except _NotJson as error:
            vain += error.looked_at + _EACH
            start = begin + 1
            if _OPENS_ITEM.match(text, begin):
                following = _OPENS_ITEM.search(text, start)
                yield None, text[begin : following.start() if following else len(text)], "broken JSON"


class _NotJson(Exception):
    """`looked_at`: how many characters were read to find that out."""

    def __init__(self, looked_at: int) -> None:
        self.looked_at = looked_at


def _decode(text: str, start: int, decoder: json.JSONDecoder) -> tuple[Any, int]:
    """A value and where it ends. Raises RecursionError, _NotJson."""
    try:
        return decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        looked_at = (len(text) if error.msg.startswith("Unterminated") else error.pos) - start + error.pos // _COUNTED
    except ValueError:  # a number too long
        looked_at = 0
    if "'" not in text[start : start + 20]:
        raise _NotJson(looked_at)
    end = _python_end(text, start)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.literal_eval(text[start:end]), end  # as Python prints it
    except (ValueError, SyntaxError, MemoryError, TypeError):
        raise _NotJson(looked_at + _SLOW * (end - start)) from None


def _python_end(text: str, start: int) -> int:
    """Where the bracket at `start` closes; the end of the text where it does not."""
    depth = 0
    for token in _PYTHON.finditer(text, start):
        if token[0][0] in "'\"":
            continue
        depth += 1 if token["opens"] else -1
        if depth == 0:
            return token.end()
    return len(text)


def _key(key: Any) -> tuple[str, str, str]:
    """The part that a key names ("" for none), the name itself, and its number."""
    found = _KEY.match(str(key).lower())
    name, number = (found["name"], found["number"]) if found and len(str(key)) < 40 else ("", "")
    return _PART.get(name, ""), name, number


def _objects(value: Any, depth: int = 0) -> list[Any]:
    """What may be items in a value: objects with a part of one, however deep; in a list beside such, anything."""
    if depth > _DEEPEST:
        return []
    if isinstance(value, dict):
        if _turns(value):
            return [value]
        parts = {part for part, _, _ in map(_key, value) if part}
        if {"instruction", "output"} <= parts:
            return _in_columns(value) or _numbered(value) or _wrapped(value, depth) or [value]
        inner = [found for v in value.values() for found in _objects(v, depth + 1)]
        return inner if not parts or any(map(_is_whole, inner)) else [_first_instance(value)]
    if isinstance(value, list):
        mixed = any(isinstance(v, dict) for v in value)
        nested = (_objects(v, depth + 1) if isinstance(v, (dict, list)) else [v] if mixed else [] for v in value)
        return [found for group in nested for found in group]
    if isinstance(value, str) and _OPENS_ITEM.search(value):  # JSON in a text
        return [v for inner, _, reason in _values(value) if not reason for v in _objects(inner, depth + 1)]
    return []


def _turns(value: dict[Any, Any]) -> list[tuple[str, Any]]:
    """Who says what in a conversation as chat models are tuned on; empty where it is none."""
    for key, who, what in (("messages", "role", "content"), ("conversations", "from", "value")):
        said = value.get(key)
        if isinstance(said, list) and said and all(isinstance(t, dict) and {who, what} <= t.keys() for t in said):
            return [(str(turn[who]).lower(), turn[what]) for turn in said]
    return []


def _from_turns(turns: list[tuple[str, Any]], text: str) -> Item | Dropped:
    """A question and its answer; what a system says in front is no part of a row."""
    asked = turns[1:] if turns[0][0] == "system" else turns
    if len(asked) != 2 or asked[0][0] not in ("user", "human") or asked[1][0] not in ("assistant", "gpt", "model"):
        return Dropped("not one question and one answer", text)
    if not all(isinstance(said, str) for _, said in asked):
        return Dropped("a field is no text", text)
    return whole({"instruction": asked[0][1], "output": asked[1][1]}, text)


def _is_whole(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(_from_object(value), Item)


def _wrapped(value: dict[Any, Any], depth: int) -> list[Any]:
    """The items that an object holds as its output, where a model put its whole answer in the form of one item: it has
    no `instruction` itself, and they have all their parts by the names that were asked for."""
    if any(_key(k)[1] in STRONG["instruction"] for k in value):
        return []
    outputs = [v for k, v in value.items() if _key(k)[0] == "output" and isinstance(v, (list, dict))]
    inner = [found for v in outputs for found in _objects(v, depth + 1)]
    return inner if len(inner) > 1 and all(_is_whole(v) and _is_named(v) for v in inner) else []


def _is_named(value: dict[Any, Any]) -> bool:
    names = {_key(key)[1] for key in value}
    return all(names & set(STRONG[part]) for part in ("instruction", "output"))


def _in_columns(value: dict[Any, Any]) -> list[Any]:
    """{"instruction": [a, b], "output": [c, d]} as two objects."""
    columns = {k: v for k, v in value.items() if _key(k)[0]}
    lengths = {len(v) if isinstance(v, list) else 0 for v in columns.values()}
    if len(lengths) > 1 or lengths & {0, 1} or not all(isinstance(t, str) for v in columns.values() for t in v):
        return []
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _numbered(value: dict[Any, Any]) -> list[Any]:
    """{"instruction_1": a, "output_1": b, "instruction_2": …} as an object for each number."""
    by_number: dict[str, dict[str, Any]] = {}
    for key, part in value.items():
        name, number = _key(key)[1:]
        by_number.setdefault(number, {})[name] = part
    return list(by_number.values()) if len(by_number) > 1 and "" not in by_number else []


def _first_instance(value: dict[Any, Any]) -> dict[Any, Any]:
    """With what Self-Instruct's form keeps in `instances`."""
    found = value.get("instances")
    return {**value, **found[0]} if isinstance(found, list) and found and isinstance(found[0], dict) else value


def _from_object(value: Any) -> Item | Dropped:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if not isinstance(value, dict):
        return Dropped("not an object", text)
    if turns := _turns(value):
        return _from_turns(turns, text)
    parts: dict[str, Any] = {}
    numbered: set[str] = set()
    for key, part in value.items():
        name, word, number = _key(key)
        if name and number and word in numbered:
            return Dropped("repeated field", text)
        numbered |= {word} if number else set()
        if name and (name not in parts or word in _STRONG):
            parts[name] = part
    if parts.get("instruction") is not None and not isinstance(parts["instruction"], str):
        return Dropped("a field is no text", text)
    return whole({k: as_text(v) for k, v in parts.items() if v is not None}, text)
