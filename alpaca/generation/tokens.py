"""What counts as a token of an instruction, by language: for dedupe, for lengths and for support.

English is `rouge_score`'s own rule ([a-z0-9] runs of the lower-cased text), which erases every other script. All other
languages share one rule: each character of a script written without spaces, and each whole word or number of the rest.
"""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

# Han with its extensions, kana, Hangul, Thai, Lao, Burmese, Khmer: one character is one token.
_UNSPACED = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\uac00-\ud7af\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)
_MARKS = "\u0300-\u036f\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff"  # vowel signs that \w leaves out
_ENGLISH = re.compile("[a-z0-9]+")
_ANY = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}_])[\w{_MARKS}])+")
_CHARACTER_LANGUAGES = {"zh", "yue", "wuu", "nan", "hak", "lzh", "ja", "ko", "th", "lo", "my", "km"}
_TWO_LETTERS = {"cmn": "zh", "zho": "zh", "chi": "zh", "eng": "en", "jpn": "ja", "kor": "ko", "tha": "th", "lao": "lo"}
_TWO_LETTERS |= {"mya": "my", "bur": "my", "khm": "km"}
"""Of languages with rules of their own that are often named by three (ISO 639-2 and 639-3)."""


def words(name: str, between: str | None = None) -> list[str]:
    """The list words/NAME.txt, parted by white space or by `between`."""
    text = (Path(__file__).parent / "words" / f"{name}.txt").read_text(encoding="utf-8")
    return [word for word in text.split(between) if word]


def english(text: str) -> list[str]:
    """Tokens as rouge_score 0.1.2 makes them without a stemmer."""
    return _ENGLISH.findall(text.lower())


def universal(text: str) -> list[str]:
    """Characters of unspaced scripts, whole words and numbers of the others; full-width forms count as the usual."""
    return _ANY.findall(unicodedata.normalize("NFKC", text).lower())


def base(language: str) -> str:
    """`zh` of `zh-CN`, `zh_Hant`, `ZH`, `cmn`, `zho`."""
    first = re.split("[-_]", language.strip().lower())[0]
    return _TWO_LETTERS.get(first, first)


def by_character(language: str) -> bool:
    """Whether lengths in this language are counted in characters."""
    return base(language) in _CHARACTER_LANGUAGES


def tokenizer(language: str) -> Callable[[str], list[str]]:
    """The rule for a language code."""
    return english if base(language) == "en" else universal
