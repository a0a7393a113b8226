"""Plain data against dataclasses: every fault with its place, what is allowed and the nearest name, all at once.

Knows nothing about any particular config. Supported field types: bool, int, float, str, Any, None, Literal,
unions of these, list[T], dict[str, T] and nested dataclasses.
"""

import dataclasses
import difflib
import functools
import types
import typing
from typing import Any, Literal, Union

_hints = functools.cache(typing.get_type_hints)


def fields(cls: type) -> dict[str, Any]:
    """Name -> type of a dataclass's fields."""
    hints = _hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def nearest(name: str, allowed: list[str]) -> str:
    """`; did you mean 'x'?` for the closest of `allowed`, by its whole name or by its last part, or nothing."""
    tails = {a.rpartition(".")[2]: a for a in reversed(allowed)}
    name = name.lower()
    tail = name.rpartition(".")[2]
    close = [tails[tail]] if tail in tails else difflib.get_close_matches(name, allowed, n=1, cutoff=0.7)
    close = close or [tails[t] for t in difflib.get_close_matches(tail, list(tails), n=1, cutoff=0.6)]
    return f"; did you mean {close[0]!r}?" if close else ""


def describe(kind: Any) -> str:
    """What a user may write for a field of this type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "|".join("null" if a is None else str(a).lower() if isinstance(a, bool) else str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is list:
        return f"a list of {describe(args[0])}"
    if origin is dict or kind is dict:
        return "a mapping"
    if dataclasses.is_dataclass(kind):
        return "a mapping with keys " + ", ".join(fields(kind))  # type: ignore[arg-type]
    words = {int: "a whole number", float: "a number", bool: "true|false", str: "a text", type(None): "null"}
    return words.get(kind, "any value")


def convert(value: Any, kind: Any, place: str, faults: list[str]) -> Any:
    """`value` as `kind`, or a line in `faults` (the value is then returned as it came)."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return build(kind, value, place, faults)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _convert_union(value, kind, args, place, faults)
    if origin is Literal:
        if any(value == a and type(value) is type(a) for a in args):
            return value
    elif origin is list:
        if isinstance(value, list):
            return [convert(v, args[0], f"{place}[{i}]", faults) for i, v in enumerate(value)]
    elif origin is dict:
        if isinstance(value, dict):
            return {str(k): convert(v, args[1], f"{place}.{k}", faults) for k, v in value.items()}
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and (number := _number(value)) is not None:  # YAML reads 1e-4 as a text
            return number
    elif kind is str:
        if isinstance(value, str):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
    elif type(value) is kind:
        return value
    faults.append(f"{place}={show(value)} is not allowed: it takes {describe(kind)}{_near_choice(value, kind)}")
    return value


def _convert_union(value: Any, kind: Any, args: tuple[Any, ...], place: str, faults: list[str]) -> Any:
    exact = sorted(args, key=lambda a: type(value) is not a)  # an int stays an int where float comes first
    for option in exact:
        own: list[str] = []
        result = convert(value, option, place, own)
        if not own:
            return result
    faults.append(f"{place}={show(value)} is not allowed: it takes {describe(kind)}{_near_choice(value, kind)}")
    return value


def _near_choice(value: Any, kind: Any) -> str:
    literals = [a for a in (kind, *typing.get_args(kind)) if typing.get_origin(a) is Literal]
    choices = [str(c) for literal in literals for c in typing.get_args(literal)]
    return nearest(str(value), choices) if choices else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def show(value: Any) -> str:
    """A value as a user wrote it, shortened."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def build(cls: type, data: Any, place: str, faults: list[str]) -> Any:
    """The dataclass `cls` from a mapping; unknown keys, missing keys and wrong types go to `faults`."""
    known = fields(cls)
    if not isinstance(data, dict):
        faults.append(f"{place or 'the config'}={show(data)} is not allowed: it takes {describe(cls)}")
        data = {}
    dot = f"{place}." if place else ""
    for key in data:
        if key not in known:
            allowed = [dot + k for k in known]
            faults.append(
                f"unknown key {dot + str(key)!r}{nearest(dot + str(key), allowed)} (allowed: {', '.join(known)})"
            )
    values = {k: convert(data[k], known[k], dot + k, faults) for k in known if k in data}
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    faults.extend(f"{dot + m} is missing: it takes {describe(known[m])}" for m in missing)
    if missing:
        values |= dict.fromkeys(missing)
    return cls(**values)


def to_plain(value: Any) -> Any:
    """A dataclass tree as dicts and lists, fields in order."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def takes_mapping(kind: Any) -> bool:
    """Whether a field of this type may hold a mapping."""
    return kind is Any or any(k is dict or typing.get_origin(k) is dict for k in (kind, *typing.get_args(kind)))


def keys(cls: type, prefix: str = "") -> list[str]:
    """Every dotted key that a dataclass tree has, inner nodes included."""
    result = []
    for name, kind in fields(cls).items():
        result.append(prefix + name)
        inner = [k for k in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(k)]
        for k in inner:
            result += keys(k, f"{prefix}{name}.")  # type: ignore[arg-type]
    return result


def type_at(cls: type, path: list[str]) -> Any:
    """The type that stands at a dotted path; Any below a free mapping. Raises KeyError where there is none."""
    kind: Any = cls
    for name in path:
        options = (kind, *typing.get_args(kind)) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)
        tree = next((k for k in options if dataclasses.is_dataclass(k)), None)
        if tree is not None:
            kind = fields(tree)[name]  # type: ignore[arg-type]
        elif any(typing.get_origin(k) is dict for k in options):
            mapping = next(k for k in options if typing.get_origin(k) is dict)
            kind = typing.get_args(mapping)[1]
        elif kind is not Any:
            raise KeyError(name)
    return kind
