"""A teacher's reply -> items, and for everything that is no item the reason why.

Knows the two reply formats and what models make of them; knows no filters, no journal and no teacher.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

ReplyFormat = Literal["alpaca", "json"]


@dataclass(frozen=True)
class Item:
    """What will be a row when it passes the filters; `input` is empty where there is none."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Dropped:
    """Something in a reply that is no item: reason (a word for counting) and the text, for a person to look at."""

    reason: str
    text: str


_FIELDS = {
    "instruction": "instruction", "task": "instruction", "指令": "instruction", "任务": "instruction", "指示": "instruction",
    "input": "input", "输入": "input", "入力": "input",
    "output": "output", "response": "output", "answer": "output", "输出": "output", "回答": "output", "出力": "output",
}  # fmt: skip
_LABEL = re.compile(
    r"^[ \t]*(?:\#{1,6}[ \t]*)?[*_`>\-•]*[ \t]*(?P<number>\d+[ \t]*[.)、．:：][ \t]*)?[*_`]*[ \t]*"
    rf"(?P<name>{'|'.join(_FIELDS)})[ \t]*(?:\#?\d+)?[ \t]*[*_`]*[ \t]*[:：][*_`]*[ \t]*(?P<rest>.*)$",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(
    r"^\s*[*_]*\s*(?:###\s*(?:\d+\s*\.?|end)?\s*(?:###)?|-{3,}|\d+\s*[.)]|\*{3,})\s*[*_]*\s*$", re.I
)
_HARD_SEPARATOR = re.compile(r"^\s*###\s*(?:\d+\s*\.?|end)?\s*(?:###)?\s*$", re.I)
_NO_INPUT = {
    "", "noinput", "no input", "none", "n/a", "na", "null", "nil", "not applicable", "no input required",
    "no input needed", "no additional input", "empty", "无", "无输入", "没有输入", "空", "不需要输入", "无需输入", "なし", "없음",
}  # fmt: skip


def parse(
    text: str, reply_format: ReplyFormat = "alpaca", cut: bool = False, opening: str = ""
) -> list[Item | Dropped]:
    """The items of a reply in order, dropped ones in their places.

    `cut`: the reply ended for length, so that its last item is not whole. `opening`: text at the end of the prompt
    that the reply continues (plain completion). Never raises, whatever the text.
    """
    if reply_format == "json" and "{" in text:
        return _parse_json(text, cut)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((line for line in lines if line.strip()), "")
    if opening and not _LABEL.match(first):
        lines = (opening + " " + text.lstrip()).split("\n")
    blocks = _blocks(lines)
    results = [_item(fields) for fields in blocks]
    if cut and results:
        results[-1] = Dropped("cut by length", _text(blocks[-1]))
    if not results and re.search(r"[\[{]\s*[\"{\[]", text):
        results = _parse_json(text, cut)  # some teachers answer in JSON whatever they were shown
        return results if any(isinstance(r, Item) for r in results) else [Dropped("nothing readable", text)]
    if not results:
        return [Dropped("cut by length" if cut else "nothing readable", text)]
    return results


_Block = list[tuple[str, bool, list[str]]]  # (field, whether its label bore a number, lines)


def _blocks(lines: list[str]) -> list[_Block]:
    """The labelled fields of each item; a label `Instruction` opens the next."""
    blocks: list[_Block] = []
    for line in lines:
        label = _LABEL.match(line)
        name = _FIELDS[label["name"].lower()] if label else ""
        numbered = bool(label and label["number"])
        if label and name == "instruction" and not (blocks and _quoted(blocks[-1], name, numbered)):
            blocks.append([(name, numbered, [label["rest"]])])
        elif label and blocks and name != "instruction" and not _quoted(blocks[-1], name, numbered):
            blocks[-1].append((name, numbered, [label["rest"]]))
        elif label and not blocks:
            blocks.append([(name, numbered, [label["rest"]])])
        elif blocks:
            blocks[-1][-1][2].append(line)
    return blocks


def _quoted(block: _Block, name: str, numbered: bool) -> bool:
    """A label that is part of an output, such as an example in it: the item's own labels bear numbers, this does not."""
    return not numbered and any(field == name and had for field, had, _ in block) and block[-1][0] == "output"


def _item(block: _Block) -> Item | Dropped:
    names = [name for name, _, _ in block]
    if len(set(names)) < len(names):
        return Dropped("repeated field", _text(block))
    if missing := [f for f in ("instruction", "input", "output") if f not in names and f != "input"]:
        return Dropped(f"no {missing[0]}", _text(block))
    if "input" not in names:
        return Dropped("no input", _text(block))
    values = {name: _clean(lines, last=i == len(block) - 1) for i, (name, _, lines) in enumerate(block)}
    return _whole(values, _text(block))


def _whole(values: dict[str, str], text: str) -> Item | Dropped:
    instruction = values["instruction"].strip()
    if not instruction:
        return Dropped("empty instruction", text)
    return Item(instruction, clear_input(values["input"]), values["output"].strip())


def clear_input(text: str) -> str:
    """The input, or nothing where a model wrote in one of many ways that there is none."""
    return "" if text.strip().strip("<>()[]{}（）【】《》\"'`*_-–—. 。").lower() in _NO_INPUT else text.strip()


def _clean(lines: list[str], last: bool) -> str:
    """A field's lines without the separators that end it; what follows `###` in the last field is the model talking."""
    if last:
        end = next((i for i, line in enumerate(lines) if i and _HARD_SEPARATOR.match(line)), len(lines))
        lines = lines[:end]
    while len(lines) > 1 and (not lines[-1].strip() or _SEPARATOR.match(lines[-1])):
        lines = lines[:-1]
    return "\n".join(lines).strip()


def _text(block: _Block) -> str:
    return "\n".join(f"{name}: " + "\n".join(lines) for name, _, lines in block).strip()


def _parse_json(text: str, cut: bool) -> list[Item | Dropped]:
    found, whole = _objects(text)
    results = [_from_object(value) for value in found]
    if cut or not whole:
        tail = text[max(text.rfind("{"), 0) :]
        results.append(Dropped("cut by length" if cut else "nothing readable" if not found else "broken JSON", tail))
    return results


def _objects(text: str) -> tuple[list[Any], bool]:
    """The values of the JSON list in a reply; False when the list is broken and these are the whole ones of it."""
    decoder = json.JSONDecoder(strict=False)
    for start in [m.start() for m in re.finditer(r"[\[{]", text)][:1000]:
        try:
            value, _ = decoder.raw_decode(text, start)
        except RecursionError:
            break
        except ValueError:
            continue
        if isinstance(value, dict):
            lists = [v for v in value.values() if isinstance(v, list) and any(isinstance(x, dict) for x in v)]
            if lists:
                return lists[0], True
            if "instruction" in value:
                return _run(text, start, decoder)
        if isinstance(value, list) and any(isinstance(x, dict) for x in value):
            return value, True
    return [], False


def _run(text: str, start: int, decoder: json.JSONDecoder) -> tuple[list[Any], bool]:
    """Objects one after another: JSON lines, or what stands before the break of a list."""
    values: list[Any] = []
    listed = "[" in text[:start]
    while (at := text.find("{", start)) >= 0:
        try:
            value, start = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return values, False
        values.append(value)
    return values, not listed


def _from_object(value: Any) -> Item | Dropped:
    text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict):
        return Dropped("not an object", text)
    named = {_FIELDS[k.strip().lower()]: v for k, v in value.items() if k.strip().lower() in _FIELDS}
    named.setdefault("input", "")
    for name in ("instruction", "output"):
        if named.get(name) is None:
            return Dropped(f"no {name}", text)
    if any(isinstance(v, (dict, list)) for v in named.values()):
        return Dropped("a field is no text", text)
    return _whole({k: "" if v is None else str(v) for k, v in named.items()}, text)
