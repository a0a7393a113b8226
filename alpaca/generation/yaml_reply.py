"""Items of a reply in YAML: a list of them, a document each, or one under a name. Knows no labels.

Read only where it is certain that YAML was meant: all texts in quotation marks, or some as blocks (`|`, `>`). In plain
values YAML cuts at a #, folds lines and makes lists of brackets, which models do not mean: those are left to the other
forms or, beside blocks, dropped.
"""

import re
from typing import Any

from alpaca.generation import json_reply
from alpaca.generation.items import NAMES, Dropped, Item, clear_input

_NAME = rf"(?:{'|'.join(NAMES)})"
_BEGINS = re.compile(rf"^[ ]*-[ ]+[\"']?{_NAME}[\"']?:(?:[ ]|$)|^{_NAME}:[ ]+[|>][-+]?$", re.I | re.M)
_PARTS = set(NAMES)
_LABEL = re.compile(rf"^\W*(?:\d+\W*)?{_NAME}\W*[:：]", re.I | re.M)
_FENCED = re.compile(r"^```+[^\S\n]*(?:ya?ml)?[^\S\n]*\n(.*?)^```+[^\S\n]*$", re.I | re.M | re.S)
_UNCLEAR = "unclear YAML"
_LONGEST = 200_000  # characters, so that no reply takes long
_HEAD = re.compile(r"^[\w ]{1,30}:[^\S\n]*$|^---[^\S\n]*$", re.M)


def read(text: str) -> list[Item | Dropped]:
    """The items of a reply; empty where it is no YAML, or YAML with anything else than items."""
    begins = _BEGINS.search(text) if len(text) <= _LONGEST else None
    if begins is None or _LABEL.search(text, 0, begins.start()):
        return []
    for part in [*_FENCED.findall(text)[:1], _from_first(text)]:
        value, looks = _load(part)
        if "block" not in looks and not looks <= {"quoted", "empty"}:
            continue
        found = [_named(f) for f in json_reply.objects(value)]
        if found and all(isinstance(f, Item) or f.reason == _UNCLEAR for f in found):
            return found
    return []


def _named(found: Item | Dropped) -> Item | Dropped:
    return (
        Dropped(_UNCLEAR, found.text) if isinstance(found, Dropped) and found.reason == "a field is no text" else found
    )


def _from_first(text: str) -> str:
    """From the line that begins the first item, or from a name above it, up to what follows the last."""
    begins = _BEGINS.search(text)
    assert begins is not None
    heads = [h.start() for h in _HEAD.finditer(text, 0, begins.start()) if not text[h.end() : begins.start()].strip()]
    lines = text[heads[-1] if heads else begins.start() :].split("\n")
    if lines[0][:1] == "-" or heads:
        for number in range(len(lines) - 1, 0, -1):  # a farewell stands at the margin, as no part of an item does
            if lines[number][:1].isspace() or lines[number].startswith("- "):
                return "\n".join(lines[: number + 1])
    return "\n".join(lines)


def _load(text: str) -> "tuple[Any, set[str]]":
    """The value, in which an item with an unclear part has a list for its instruction, and the looks of all parts."""
    import yaml

    looks: set[str] = set()

    class Plain(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Every plain value is a text."""

        yaml_implicit_resolvers: dict[str, Any] = {}

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value.lower() for key, _ in node.value if isinstance(key.value, str)]
            if len(set(keys)) < len(keys):
                raise yaml.YAMLError("a name twice, which would hide the first")
            if _PARTS & set(keys):
                values = [pair for pair in node.value if str(pair[0].value).lower() in _PARTS]
                found = [_look(text, key, value) for key, value in values]
                if len(values) > 1 or not any(look == "unclear" for look in found):
                    looks.update(found)
                if len(values) > 1 and "unclear" in found:
                    return {"instruction": [text[node.start_mark.index : node.end_mark.index].rstrip()]}
            return super().construct_mapping(node, deep)

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Plain)):
            return None, looks  # by references a few lines can become millions
        return list(yaml.load_all(text, Plain)), looks
    except (yaml.YAMLError, ValueError, RecursionError):
        return None, looks


def _look(text: str, key: Any, value: Any) -> str:
    """`block` or `quoted`; `plain` where it is the rest of its line; `unclear` where YAML reads less or other than stands there."""
    if not isinstance(value.value, str):
        return "unclear"
    if value.style in ("|", ">"):
        return "block"
    end = text.find("\n", value.end_mark.index)
    line = text[key.end_mark.index : end if end >= 0 else len(text)].strip().removeprefix(":").strip()
    if value.style in ("'", '"'):
        return "quoted" if line[:1] == line[-1:] == value.style and "\n" not in line else "unclear"
    if line != value.value:
        return "unclear"
    return "plain" if clear_input(line) else "empty"
