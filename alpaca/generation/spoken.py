"""What a model says, without what its own format puts around it: thoughts, channels, signs of an end.

All of it stands in front of the first item: where a label of an instruction or a bracket of JSON comes before such a
sign, the sign is part of a row and stays. Only the end of thoughts that right before a first item stands on its own, without
a beginning, makes drafts of the items above it.
"""

import re

from alpaca.generation.items import OTHER, STRONG, WEAK

_NAMES = r"(?:seed:)?(?:think|thinking|thoughts?|reasoning|analysis|scratchpad|reflection)"
_OPENS = re.compile(rf"\s*[<\[◁]{_NAMES}[>\]▷]", re.I)
_OPEN = re.compile(rf"[<\[◁]{_NAMES}[>\]▷]", re.I)
_CLOSES = re.compile(rf"[<\[◁]/{_NAMES}[>\]▷]", re.I)
_CLOSES_ALONE = re.compile(rf"^[^\S\n]*[<\[◁]/{_NAMES}[>\]▷]|[<\[◁]/{_NAMES}[>\]▷][^\S\n]*$", re.I | re.M)
_LATER = re.compile(rf"^[<\[◁]({_NAMES})[>\]▷](?:(?![<\[◁]/?{_NAMES}[>\]▷]).)*+[<\[◁]/\1[>\]▷]", re.I | re.M | re.S)
_LABEL = "|".join(
    name for group in (STRONG, WEAK, OTHER) for name in group["instruction"] if len(name) > 1 or not name.isascii()
)
_ITEM = re.compile(
    rf"[{{\[](?=\s*[{{\[\"'])|^\W{{0,12}}(?:\w{{1,8}}\W{{1,4}})?(?:{_LABEL})[\w ]{{0,12}}\W{{0,8}}[:：>\]】]",
    re.I | re.M,
)
_BEGINS = re.compile(
    rf"\s*(?:```\w*\s*)?(?:[{{\[](?=\s*[{{\[\"'])|\W{{0,12}}1\W{{1,4}}(?:{_LABEL})\W{{0,8}}[:：])", re.I
)
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<\n]{0,40}<\|message\|>")
_ANSWER = re.compile(r"\s*<(answer|response|result|solution|final_answer)>[^\S\n]*\n(.*)\n\s*</\1>\s*\Z", re.I | re.S)
_END = re.compile(r"\s*(?:<\|[a-z_]{2,20}\|>|<end_of_turn>|<eos>|</s>|<｜end▁of▁sentence｜>)\s*\Z")


def said(text: str) -> str:
    """The answer in a reply. Of thoughts that never came to an end nothing is left."""
    signs = (("begin_of_thought", "<think>"), ("end_of_thought", "</think>"), ("begin_of_solution", "<answer>"), ("end_of_solution", "</answer>"))  # fmt: skip
    for sign, tag in signs if text.lstrip().startswith("<|begin_of_") else ():
        text = text.replace(f"<|{sign}|>", tag)
    text = _without_end(_without_thoughts(_final_channel(text)))
    answer = _ANSWER.match(text)
    return answer[2] if answer and text.count(f"<{answer[1]}>") == 1 else text


def _final_channel(text: str) -> str:
    """Of a reply with channels the first final one, also where a server left only their names."""
    if text.lstrip().startswith(("<|channel|>", "<|start|>")):
        final = _FINAL.search(text)
        return text[final.end() :] if final else text
    before, named, after = text.partition("assistantfinal")
    return after if named and text.startswith("analysis") and not _ITEM.search(before) else text


def _without_thoughts(text: str) -> str:
    opens = _OPENS.match(text)
    closes = (_CLOSES if opens else _CLOSES_ALONE).search(text)  # a template may have opened it
    if opens and not closes:
        return ""
    if closes and (opens or not _ITEM.search(text, 0, closes.start()) or _drafted(text, closes)):
        text = text[closes.end() :]
    while (later := _LATER.search(text)) is not None and not _ITEM.search(text, 0, later.start()):
        text = text[: later.start()] + text[later.end() :]
    return text


def _drafted(text: str, closes: re.Match[str]) -> bool:
    """Whether thoughts without a beginning end on a line of their own, right before a first item."""
    alone = text[: closes.start()].endswith("\n") and text[closes.end() : closes.end() + 1] == "\n"
    return alone and not _OPEN.search(text, 0, closes.start()) and _BEGINS.match(text, closes.end()) is not None


def _without_end(text: str) -> str:
    while (end := _END.search(text, max(0, len(text) - 60))) is not None:
        if end[0].strip() == "</s>" and "<s>" in text:  # struck out
            break
        text = text[: end.start()]
    return text
