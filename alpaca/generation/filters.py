"""Which items are fit to be rows, before dedupe. Stanford Alpaca's rules are the English default.

The order is the original's, and the first rule that an item breaks is its reason. Knows no other rows.
"""

import re
import unicodedata
from dataclasses import dataclass

from alpaca.generation.items import Item
from alpaca.generation.tokens import base, by_character, universal, words

_WORDS = {"en": words("unwanted_en", "\n"), "zh": words("unwanted_zh", "\n")}
_STARTS = {
    "en": ["Write a program"],
    "zh": ["编写一个程序", "编写程序", "写一个程序", "編寫一個程式", "編寫程式", "撰寫一個程式", "寫一個程式"],
}
_LENGTHS = {False: (4, 150), True: (4, 500)}  # words; characters
_APOLOGY = r"(?:(?:i'?m |i am )?(?:very |so |truly )?sorry|i (?:sincerely )?apologi[sz]e|(?:my )?apologies|unfortunately)\b[,.:;! ]*(?:(?:but|however)\b,? ?)?"
_UNABLE = r"i(?: (?:cannot|can't|can not|won't|will not|(?:am|will) (?:unable|not able) to|won't be able to)|(?:'m|'ll) (?:unable|not able) to)"
_HELP = r"(?:help|assist|provide|fulfil|comply|answer|respond|complete (?:this|that|your|the)|do that\b)"
_MORE = r"(?:do (?:this|it)\b|generate|create|write|produce|perform|process|access|discuss|engage|offer|share|play)"
_AI = r"as an? (?:ai|artificial intelligence)(?:,| i\b| (?:language |chat)?(?:model|assistant|system|program|bot)\b)|as a (?:large )?language model\b"
_AI_ZH = r"作为(?:一个|一名|一款)?(?:(?:ai|人工智能)(?:(?:语言)?(?:模型|助手|助理|程序|程式)|[，, ]*我)|大?型?语言模型)"
_UNABLE_ZH = r"(?:无法|不能|没法|没有办法)(?:直接)?(?:回答|提供|帮助|帮你|帮您|协助|完成|满足|生成|处理|执行|给出|访问|造访|存取|浏览)"
_REFUSAL = re.compile(
    rf"^\W*(?:{_APOLOGY}(?:{_UNABLE} (?:{_HELP}|{_MORE})|{_AI}|as an ai\b)|{_UNABLE} {_HELP}|{_AI}|i(?:'m| am) (?:just )?an ai\b"
    rf"|(?:(?:很|非常)?抱歉|对不起)[，,。！ ]*(?:但是?)?(?:我[^。！\n]{{0,8}}{_UNABLE_ZH}|作为(?:一个)?ai\b|{_AI_ZH})|我{_UNABLE_ZH}|{_AI_ZH})"
    r"|\bas an ai (?:language )?model\b|\bi (?:do not|don't|cannot|can't) [^.\n]{0,60}\bas an ai\b",
    re.IGNORECASE,
)
_SIMPLIFIED = str.maketrans(
    "為個語無沒辦幫協滿處執給訪瀏覽對慧", "为个语无没办帮协满处执给访浏览对能"
)  # of the words above; 智慧 is 智能
_REFUSAL_JA = re.compile(
    r"^\W*(?:(?:申し訳(?:ありません|ございません)|すみません|恐れ入ります)が?[、。 ]*(?:[^。\n]{0,40}(?:お答え|回答|ご?提供|お手伝い|生成|ご?対応|アクセス)(?:すること)?(?:は|が)?(?:いた)?でき(?:ません|かねます))"
    r"|(?:私は)?(?:ai|人工知能)(?:の|である)?(?:大規模)?(?:言語モデル|アシスタント|モデル)(?:として|なので|であるため|です(?:が|ので)))",
    re.IGNORECASE,
)
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
    if _REFUSAL.search(output.translate(_SIMPLIFIED)) or _REFUSAL_JA.search(output):
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
