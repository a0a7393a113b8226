"""What a model says, without what its own format puts around it: thoughts, channels, signs of an end.

Knows no items.
"""

import re

_NAMES = r"(?:seed:)?(?:think|thinking|thoughts?|reasoning|analysis|scratchpad|reflection)"
_OPENS = re.compile(rf"\s*[<\[◁]{_NAMES}[>\]▷]", re.I)
_CLOSES = re.compile(rf"[<\[◁]/{_NAMES}[>\]▷]", re.I)
_CLOSES_ALONE = re.compile(rf"^[^\S\n]*[<\[◁]/{_NAMES}[>\]▷]|[<\[◁]/{_NAMES}[>\]▷][^\S\n]*$", re.I | re.M)
_LATER = re.compile(rf"^[<\[◁]({_NAMES})[>\]▷](?:(?![<\[◁]/?{_NAMES}[>\]▷]).)*+[<\[◁]/\1[>\]▷]", re.I | re.M | re.S)
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<\n]{0,40}<\|message\|>")
_ANSWER = re.compile(r"\s*<(answer|response|result|solution|final_answer)>[^\S\n]*\n(.*)\n\s*</\1>\s*\Z", re.I | re.S)
_END = re.compile(r"\s*(?:<\|[a-z_]{2,20}\|>|<end_of_turn>|<eos>|</s>|<｜end▁of▁sentence｜>)\s*\Z")


def said(text: str) -> str:
    """The answer in a reply. Of thoughts that never came to an end nothing is left."""
    for sign, tag in (("begin_of_thought", "<think>"), ("end_of_thought", "</think>"), ("begin_of_solution", "<answer>"), ("end_of_solution", "</answer>")):  # fmt: skip
        text = text.replace(f"<|{sign}|>", tag)
    text = _without_end(_without_thoughts(_final_channel(text)))
    answer = _ANSWER.match(text)
    return answer[2] if answer and text.count(f"<{answer[1]}>") == 1 else text


def _final_channel(text: str) -> str:
    """Of a reply with channels the last final one, also where a server left only their names."""
    finals = list(_FINAL.finditer(text))
    if finals:
        return text[finals[-1].end() :]
    _, named, after = text.partition("assistantfinal")
    return after if named and text.startswith("analysis") else text


def _without_thoughts(text: str) -> str:
    opens = _OPENS.match(text)
    closes = (_CLOSES if opens else _CLOSES_ALONE).search(text)  # a template may have opened it
    if opens and not closes:
        return ""
    return _LATER.sub("", text[closes.end() :] if closes else text)


def _without_end(text: str) -> str:
    while (end := _END.search(text, max(0, len(text) - 60))) is not None:
        if end[0].strip() == "</s>" and "<s>" in text:  # struck out
            break
        text = text[: end.start()]
    return text
