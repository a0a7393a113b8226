"""Items that a reply folds away, each in `<details>`: their frames are taken off. Knows no items."""

import re

_OPEN = r"<details[^>\n]*>\s*(?:<summary>[^\n]*</summary>[ \t]*)?"
_FIRST = re.compile(rf"\A((?:[^\n]*\n){{0,5}}?)[ \t]*{_OPEN}(?=\n)")
_BETWEEN = re.compile(rf"\n[ \t]*</details>[ \t]*(?:\n\s*{_OPEN}(?=\n)|\s*\Z)")
_LAST = re.compile(r"\n[ \t]*</details>[ \t]*(?=\n)")

_LABEL = re.compile(r"^\W*(?:\d+\W*)?\w+[*_]*[:：]", re.M)  # no last words, but an item that is not folded


def unfolded(text: str) -> str:
    """The text without the frames around and between items; what a value holds stays."""
    first = _FIRST.match(text) if "<details" in text else None
    if first is None:
        return text
    text = first[1] + _BETWEEN.sub("\n\n", text[first.end() :])
    left = [*_LAST.finditer(text)]
    if left and text.count("</details>") > text.count("<details"):
        tail = text[left[-1].end() :]
        text = text[: left[-1].start()] + ("\n" + tail if _LABEL.search(tail) else "")
    return text
