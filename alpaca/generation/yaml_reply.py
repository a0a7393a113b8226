"""Items of a reply in YAML: a list of them, a document each, or one under a name. Knows no labels.

Read only where a line begins an item as YAML does; what YAML cannot read is left to the other forms.
"""

import re
from typing import Any

from alpaca.generation import json_reply
from alpaca.generation.items import NAMES, Dropped, Item

_NAME = rf"(?:{'|'.join(NAMES)})"
_BEGINS = re.compile(rf"^[ ]*-[ ]+[\"']?{_NAME}[\"']?:(?:[ ]|$)|^{_NAME}:[ ]+(?:[|>][-+]?$|[\"'])", re.I | re.M)
_LABEL = re.compile(rf"^\W*(?:\d+\W*)?{_NAME}\W*[:：]", re.I | re.M)
_FENCED = re.compile(r"^```+[^\S\n]*(?:ya?ml)?[^\S\n]*\n(.*?)^```+[^\S\n]*$", re.I | re.M | re.S)
_LONGEST = 200_000  # characters, so that no reply takes long
_HEAD = re.compile(r"^[\w ]{1,30}:[^\S\n]*$|^---[^\S\n]*$", re.M)


def read(text: str) -> list[Item | Dropped]:
    """The items of a reply; empty where it is no YAML, or YAML with anything else than items."""
    begins = _BEGINS.search(text) if len(text) <= _LONGEST else None
    if begins is None or _LABEL.search(text, 0, begins.start()):
        return []
    for part in [*_FENCED.findall(text)[:1], _from_first(text)]:
        found = json_reply.objects(_load(part))
        if found and all(isinstance(f, Item) for f in found):
            return found
    return []


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


def _load(text: str) -> Any:
    import yaml

    class Plain(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Without references, by which a few lines can become millions; every plain value is a text."""

        yaml_implicit_resolvers: dict[str, Any] = {}

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("a reference")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value if isinstance(key.value, str)]
            if len(set(names)) < len(names):
                raise yaml.YAMLError("a name twice, which would hide the first")
            return super().construct_mapping(node, deep)

    try:
        return list(yaml.load_all(text, Plain))
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
