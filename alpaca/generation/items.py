"""What a teacher's reply is read into: items, and for everything that is no item the reason why.

Knows no reply format.
"""

import html
import json
from dataclasses import dataclass
from typing import Any


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


# Names of the three parts. A strong name in a reply makes the weak ones of the same part ordinary words.
STRONG = {
    "instruction": ["instruction", "指令", "指示", "지시"],
    "input": ["input", "输入", "入力", "입력"],
    "output": ["output", "输出", "出力", "출력"],
}
WEAK = {
    "instruction": ["task", "question", "prompt", "任务", "问题", "题目"],
    "input": ["context"],
    "output": ["response", "answer", "completion", "回答", "答案", "回复"],
}
_NO_INPUT = {
    "", "noinput", "no input", "none", "n/a", "na", "null", "nil", "not applicable", "not required", "not needed", "empty",
    "none required", "none needed", "input not needed", "input not required", "not provided", "none provided",
    "无", "无输入", "没有输入", "空", "不需要", "不适用", "暂无", "なし", "入力なし", "없음",
}  # fmt: skip
_NO_INPUT |= {f"no {a}input{v}" for a in ("", "additional ", "further ", "specific ") for v in (" required", " needed", " is required", " is needed", " necessary", " provided", " given", "")}  # fmt: skip
_NO_INPUT |= {f"{a}需{b}输入" for a in ("无", "不", "没有") for b in ("", "要", "额外", "要额外", "其他")}


def whole(values: dict[str, str], text: str) -> Item | Dropped:
    """An item of the parts found; a part `input` that is not there means that there is none."""
    for name in ("instruction", "output"):
        if name not in values:
            return Dropped(f"no {name}", text)
    parts = (values["instruction"], clear_input(values.get("input", "")), values["output"])
    item = Item(*(_readable(part).strip() for part in parts))
    return item if item.instruction else Dropped("empty instruction", text)


def as_text(value: Any) -> str:
    """A part as text: a list of plain values a line each, an object as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(v, (dict, list)) for v in value):
        return "\n".join(map(as_text, value))
    return json.dumps(value, ensure_ascii=False, default=str)


def _readable(text: str) -> str:
    """Without what no tokenizer takes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def clear_input(text: str) -> str:
    """The input, or nothing where a model wrote in one of many ways that there is none."""
    bare = html.unescape(text).replace("\\", "").strip().strip("<>()[]{}（）【】《》\"'“”`*_-–—./。 ").lower()
    return "" if bare in _NO_INPUT else text.strip()
