"""Which items are fit to be rows, before dedupe. Stanford Alpaca's rules are the English default.

The order is the original's, and the first rule that an item breaks is its reason. Knows no other rows.
"""

import re
import unicodedata
from dataclasses import dataclass

from alpaca.generation.items import Item
from alpaca.generation.refusals import refuses
from alpaca.generation.tokens import base, by_character, universal, words

_WORDS = {"en": words("unwanted_en", "\n"), "zh": words("unwanted_zh", "\n")}
_STARTS = {
    "en": ["Write a program"],
    "zh": ["编写一个程序", "编写程序", "写一个程序", "編寫一個程式", "編寫程式", "撰寫一個程式", "寫一個程式"],
}
_LENGTHS = {False: (4, 150), True: (4, 500)}  # words; characters
_PLACEHOLDER = re.compile(
    r"^\W*(?:output|answer|response|todo|tbd|placeholder|your (?:answer|output|response)( here)?|输出|輸出|回答|答案|待定|略)\W*$"
    r"|^(?:\.{2,6}|…{1,2})$",
    re.IGNORECASE,
)
_SLOT = re.compile(
    r"(?<![\w)])[\[<{【](?:(?P<stands_for>(?:insert|add|placeholder)\b|此处|此處|请插入|請插入|插入)|your\b|fill in\b|(?:请|請)?填[写寫])[^\]>}】=]{0,60}[\]>}】]",
    re.IGNORECASE,
)
_ANY_SLOT = re.compile(r"[\[<{【][^\[\]<>{}【】]{1,60}[\]>}】]")
_BESIDE, _BESIDE_STANDING = 2, 8  # fewer words beside slots are no template; nor beside one for the answer itself
_LOREM = re.compile(r"^\W*(?:<[^>]*>\W*)*lorem ipsum\b", re.IGNORECASE)


@dataclass
class FilterConfig:
    """What an item must satisfy. null: the default of the language."""

    min_length: int | None = None
    """Shortest instruction kept, in words; in characters for Chinese, Japanese, Korean and Thai."""
    max_length: int | None = None
    words: list[str] | None = None
    """An instruction with one of these is dropped (a text-only model cannot follow it). []: none."""
    starts: list[str] | None = None
    """An instruction that starts so is dropped."""
    punctuation: bool = True
    """Drop an instruction that starts with punctuation."""
    ascii: bool | None = None
    """Drop an instruction that does not start with an ASCII character; null: English only."""
    outputs: bool = True
    """Drop outputs that are empty, copy the input or the instruction, refuse, or are placeholders."""


class Filter:
    """The rules for one language, compiled."""

    def __init__(self, config: FilterConfig, language: str) -> None:
        self.characters, code = by_character(language), base(language)
        low, high = _LENGTHS[self.characters]
        self.low = low if config.min_length is None else config.min_length
        self.high = high if config.max_length is None else config.max_length
        code = "zh" if code in ("yue", "wuu") else code
        words = _WORDS.get(code, []) if config.words is None else config.words
        edge = "" if self.characters else r"\b"
        alternatives = "|".join(re.escape(w) for w in words)
        self.words = re.compile(f"{edge}(?:{alternatives}){edge}", re.IGNORECASE) if words else None
        self.starts = tuple(_STARTS.get(code, []) if config.starts is None else config.starts)
        self.punctuation, self.outputs = config.punctuation, config.outputs
        self.ascii = code == "en" if config.ascii is None else config.ascii

    def reason(self, item: Item) -> str | None:
        """Why an item is dropped, or None when it passes."""
        text = item.instruction
        length = self.length(text)
        if length < self.low or length > self.high:
            return "instruction too short" if length < self.low else "instruction too long"
        if self.words and self.words.search(text):
            return "instruction needs more than text"
        if text.startswith(self.starts):
            return "instruction asks for a program" if self.starts == ("Write a program",) else "unwanted start"
        if self.punctuation and text and unicodedata.category(text[0])[0] in "PS":
            return "instruction starts with punctuation"
        if self.ascii and not text[:1].isascii():
            return "instruction does not start in ASCII"
        return _output_reason(item) if self.outputs else None

    def length(self, text: str) -> int:
        """Words, or characters other than spaces."""
        return len("".join(text.split())) if self.characters else len(text.split())


def _output_reason(item: Item) -> str | None:
    output = item.output.strip()
    if not output:
        return "output empty"
    said = " ".join(output.split())  # the signs count: capitals, commas or quotation marks may be what was asked for
    if item.input and said == " ".join(item.input.split()):
        return "output copies the input"
    if said == " ".join(item.instruction.split()):
        return "output copies the instruction"
    if refuses(output):
        return "output refuses"
    return "output is a placeholder" if _is_placeholder(item, output) else None


def _is_placeholder(item: Item, output: str) -> bool:
    """Whether something is to be put in place of the answer. A letter that ends with [Your Name] is one already."""
    if _PLACEHOLDER.search(output):
        return True
    if _LOREM.search(output):
        return "lorem ipsum" not in f"{item.instruction} {item.input}".lower()
    slots = list(_SLOT.finditer(output))
    if not slots:
        return False
    least = _BESIDE_STANDING if any(slot["stands_for"] for slot in slots) else _BESIDE
    return len(universal(_ANY_SLOT.sub(" ", output))) < least
