"""What a judge said -> the first answer, the second, a tie, or nothing that can be read. Knows no requests and no sides.

The last explicit verdict counts: in double brackets, as a value of JSON, or after a word such as `Verdict:`. Only where
there is none, a line that is nothing but a label counts, and then sentences that say which is better if they agree.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

Verdict = Literal["first", "second", "tie"]

_NOUN = r"(?:the\s+)?(?:answer|response|assistant|model|option|candidate|output|reply|system|choice|回答|答案|回复|助手|模型|选项|答复)"
_FIRST = r"(?:[aA1]|one|first|一|甲)"
_SECOND = r"(?:[bB2]|two|second|二|乙)"
_TIE = (
    r"(?:an?\s+)?(?:tie[ds]?|draw|equal(?:ly)?(?:\s+good|\s+bad)?|same|neither(?:\s+is\s+better)?|both(?:\s+(?:are\s+)?(?:good|bad|equal(?:ly)?.*))?"
    r"|no\s+(?:clear\s+)?(?:winner|difference|preference)|[cC]|平局|平手|打平|持平|相当|相同|相等|一样(?:好|差)?|都好|都差|都不好|不分上下|不相上下|难分(?:高下|伯仲|胜负))"
)
_WORD = r"(?:(?:the\s+|my\s+|our\s+)?(?:final\s+|overall\s+)?(?:verdict|winner|winning\s+(?:answer|response)|decision|judge?ment|conclusion|preference|preferred(?:\s+(?:answer|response))?|better(?:\s+(?:answer|response|one))?|best(?:\s+(?:answer|response))?|choice|result|answer)|(?:最终|最后|总体)?(?:的)?(?:结论|结果|判断|裁决|判定|评判|胜者|胜出者?|优胜者?|选择|答案|更好的(?:回答|答案)?|较好的(?:回答|答案)?))"
_SCALE = re.compile(r"[aA]\s*(>{1,3}|<{1,3}|={1,2}|≈)\s*[bB]|[bB]\s*(>{1,3}|<{1,3}|={1,2}|≈)\s*[aA]")
_DOUBLE = re.compile(r"\[\[([^\[\]\n]{1,60})\]\]")
_JSON = re.compile(
    rf"""["'](?:{_WORD}|(?:final_)?verdict|winner|better|better_(?:answer|response)|preferred|choice|label|结论|胜者)["']\s*:\s*(?:["']([^"'\n]{{1,60}})["']|(-?\d|null|true|false))""",
    re.I,
)
_SAID = re.compile(
    rf"(?:^|[\s。，,.;；!！(（*#>|-]){_WORD}\s*(?::|=|\bis\b|\bgoes\s+to\b|是|为)\s*:?\s*([^\n]{{1,120}})", re.I | re.M
)
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{)?\s*([^{}\n]{1,40}?)\s*\}")
_LABEL = re.compile(
    rf"(?P<tie>{_TIE})|(?:the\s+)?(?:{_NOUN}\s*[_#-]?\s*)?(?:(?P<first>{_FIRST})|(?P<second>{_SECOND}))(?:\s*{_NOUN})?",
    re.I,
)
_AFTER = re.compile(
    r"(?:\W|_)*(?:\s*(?:is|was|wins?|because|since|as|for|by|with|due|更|较|胜|优|好|，|。|；|因)|\Z|[^\w\s])", re.I
)
_BETTER = (
    r"(?:\s+(?:is|was|seems|appears\s+to\s+be|provides?|gives?|offers?))"
    r"(?:\s+(?:a|an|the|clearly|slightly|much|somewhat|far|significantly|marginally|overall|therefore|also|generally))*\s+(?:better|best|superior|stronger|preferable|preferred|more\s+(?:helpful|accurate|correct|complete|useful))\b"
)
_WORSE = re.compile(
    r"\s*(?:(?:is|was|seems|does|did|更|较|明显|略)\s*)*(?:(?:clearly|slightly|much|far|somewhat)\s+)*"
    r"(?:not\b|worse|worst|inferior|weaker|loses?\b|lost\b|fails?\b|不如|不好|差|弱|逊|输)", re.I,
)  # fmt: skip
"""What follows a label that is named as the loser."""
_DENIED = re.compile(
    r"(?:\b(?:not|neither|nor|never|hardly|cannot|whether|if|unless|no)\b|n't\b|不|并非|没有|如果|是否|难以)[^.!?,;:\n。]*\Z",
    re.I,
)
"""A clause before a sentence's verdict that takes it back or leaves it open."""
_SENTENCES = (
    re.compile(rf"{_NOUN}\s+(?P<first>[A1])\b(?:{_BETTER}|\s+(?:clearly\s+|narrowly\s+)?wins\b)|{_NOUN}\s+(?P<second>[B2])\b(?:{_BETTER}|\s+(?:clearly\s+|narrowly\s+)?wins\b)", re.I),
    re.compile(rf"\b(?:(?P<first>A)|(?P<second>B))(?:{_BETTER}|\s+wins\b)"),
    re.compile(rf"\bthe\s+(?:(?P<first>first|former)|(?P<second>second|latter))(?:\s+(?:{_NOUN}|one))?(?:{_BETTER}|\s+wins\b)", re.I),
    re.compile(rf"\b(?:I|we)\s+(?:would\s+|slightly\s+|clearly\s+|strongly\s+)*(?:prefer|choose|pick|favou?r|select)\s+(?:{_NOUN}\s+)?(?:(?P<first>[A1]\b|the\s+first\b)|(?P<second>[B2]\b|the\s+second\b))", re.I),
    re.compile(rf"(?:(?P<first>(?<![A-Za-z])A|第一个|前者)|(?P<second>(?<![A-Za-z])B|第二个|后者))\s*(?:{_NOUN})?\s*(?:明显|显然|略|稍|总体|整体|相对|也|要|的)*(?:更好|更优|较好|更佳|胜出|获胜|更胜一筹|更有帮助|更准确|优于|好于)"),
    re.compile(rf"(?P<tie>\bneither\s+(?:(?:{_NOUN}|of\s+them|[A1]\s+nor\s+{_NOUN}?\s*[B2])\s+)?is\s+(?:clearly\s+)?better\b|\b(?:it\s+is|it's|this\s+is|call\s+it|I\s+call)\s+a\s+(?:tie|draw)\b|\bboth\s+(?:{_NOUN}s?\s+|of\s+them\s+)?are\s+(?:of\s+)?(?:equal(?:ly)?|comparable)\b|\bequally\s+(?:good|bad|helpful|correct)\b|两者(?:相当|不相上下|一样好|一样差)|不分上下|平局)", re.I),
)  # fmt: skip


def read(text: str, cut: bool = False) -> Verdict | None:
    """The verdict, or None. `cut`: the reply ended before its end, so that only an explicit verdict is one."""
    text = plain(text)
    if (explicit := _explicit(text)) is not _NOTHING:
        return explicit  # type: ignore[return-value]
    if cut:
        return None
    lines = [line for line in text.splitlines() if line.strip(" \t-=_*`#>|~")]
    for line in (lines[-1], lines[0]) if lines else ():
        if (found := label(line, whole=True)) is not None:
            return found
    claims = [
        m
        for pattern in _SENTENCES
        for m in pattern.finditer(text)
        if not _DENIED.search(text[max(0, m.start() - 120) : m.start()])
    ]
    said = {kind for m in claims for kind, t in m.groupdict().items() if t}
    return said.pop() if len(said) == 1 else None  # type: ignore[return-value]


def plain(text: str) -> str:
    """Without the thoughts of reasoning models and Markdown's emphasis; full-width signs as their usual ones."""
    text = unicodedata.normalize("NFKC", text)
    text = text.translate(str.maketrans("【】〖〗〔〕「」『』《》“”‘’", '[][][]""""""""\'\''))
    text = re.sub(r"<(think|thinking|reasoning|思考)>.*?(?:</\1>|\Z)", "\n", text, flags=re.S | re.I)
    text = re.sub(
        r"\A.*</think(?:ing)?>", "", text, flags=re.S | re.I
    )  # some servers keep only the end of the thoughts
    text = re.sub(r"\\\[\s*(\[[^\[\]\n]{1,60}\])\s*\\\]", r"[\1]", text)
    text = re.sub(r"\[\s+(?=\[)|(?<=\])\s+(?=\])", lambda m: m[0].strip(), text)
    return re.sub(r"\*\*|__|`|~~|\$|(?<![*\w])\*|\*(?![*\w])", "", text)


_NOTHING = object()


def _explicit(text: str) -> object:
    """The verdict of the last place that states one (None where that place contradicts itself), or _NOTHING."""
    found = sorted(_marks(text), key=lambda mark: mark[0])
    if not found:
        return _NOTHING
    at = found[-1][0]
    line = text.rfind("\n", 0, at) + 1
    said = {verdict for start, verdict in found if start >= line}  # "[[A]] or [[B]]" on one line decides nothing
    return said.pop() if len(said) == 1 else None


def _marks(text: str) -> Iterator[tuple[int, Verdict]]:
    """(place, verdict) of everything that states a verdict in so many words."""
    for match in _DOUBLE.finditer(text):
        if (found := label(match[1], whole=True)) is not None:
            yield match.start(), found
    for match in _JSON.finditer(text):
        if (found := label(match[1] or match[2], whole=True)) is not None:
            yield match.start(), found
    for match in _BOXED.finditer(text):
        if (found := label(match[1], whole=True)) is not None:
            yield match.start(), found
    for match in _SAID.finditer(text):
        if (found := label(match[1])) is not None:
            yield match.start(), found


def label(text: str, whole: bool = False) -> Verdict | None:
    """The verdict that a short text opens with, or (`whole`) is."""
    text = text.strip(" \t.,:;!?\"'[](){}<>*#|-=。，：；！、")
    if scale := _SCALE.fullmatch(text) if whole else _SCALE.match(text):
        sign, turned = scale[1] or scale[2], scale[2] is not None
        return "tie" if sign[0] in "=≈" else "first" if (sign[0] == ">") != turned else "second"
    text = re.sub(r"^第(?=[一二12])|^(?<=[一二])个", "", text)
    text = re.sub(r"^([一二12])个", r"\1", text)
    match = _LABEL.match(text)
    if match is None:
        return None
    rest = text[match.end() :]
    if match["tie"] is not None:
        return "tie" if not rest.strip(" .!,") or not whole and not re.match(r"\s*[a-z0-9]", rest, re.I) else None
    if whole and rest.strip(" .!,") and not re.fullmatch(r"\s*(?:is\s+better|wins?|更好|胜出|胜|获胜)\W*", rest, re.I):
        return None
    if rest and re.match(r"[a-z0-9]", rest, re.I):  # a word that only begins like a label
        return None
    if re.match(r"\s*(?:and|or|&|/|vs\.?|和|与|或)\s*(?:" + _NOUN + r"\s*)?" + _SECOND + r"\b", rest, re.I):
        return "tie" if re.search(r"equal|same|tie|draw|both|相当|一样|平", rest, re.I) else None
    if not _AFTER.match(rest) or _WORSE.match(rest):
        return None
    return "first" if match["first"] is not None else "second"
