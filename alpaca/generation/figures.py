"""What a set of rows looks like, as numbers: lengths, leading verbs with their objects, nearest instructions.

Knows no files and no HTML.
"""

import re
from collections import Counter
from typing import Any

from alpaca.generation.dedupe import LONGEST, Pool
from alpaca.generation.tokens import by_character, universal, words

# Plain lists in place of a parser: a verb of the list that opens an instruction is taken for its root.
_VERBS, _SKIP = frozenset(words("verbs_en")), frozenset(words("determiners_en"))
_STOP_AT, _CLAUSE = frozenset(words("phrase_ends_en")), frozenset(words("clause_openers_en"))


def lengths(rows: list[dict[str, Any]], language: str) -> dict[str, list[int]]:
    """Lengths of the three parts; words, or characters for languages counted so. An input that is not there is left out."""
    measure = (lambda t: len("".join(t.split()))) if by_character(language) else (lambda t: len(t.split()))
    texts = {k: [str(r.get(k) or "") for r in rows] for k in ("instruction", "input", "output")}
    return {k: [measure(t) for t in values if t or k != "input"] for k, values in texts.items()}


def verbs(rows: list[dict[str, Any]], language: str) -> tuple[Counter[tuple[str, str]], str]:
    """(verb, object) -> count, and how they were found. Chinese: the first two words; the share not found has no entry."""
    texts = [r["instruction"] for r in rows]
    if by_character(language):
        return Counter(p for t in texts if (p := _first_words(t))), "first two words by jieba's segmentation"
    found = Counter(p for t in texts if (p := verb_object(t)))
    return (
        found,
        "first word if it is one of a list of common verbs, with the last word of the phrase after it (no parser)",
    )


def verb_object(text: str) -> tuple[str, str] | None:
    """('write', 'story') of "Write a short story about …"; None where the first word is no verb of the list."""
    words = re.findall(r"[a-z]+(?:-[a-z]+)*|[.,:;!?()\"]", text.lower())
    words = words[1:] if words[:1] == ["please"] else words
    if not words or words[0] not in _VERBS:
        return None
    last = ""
    for word in words[1:]:
        if not word[0].isalpha() or word in _STOP_AT:
            if last or word in _CLAUSE:
                break
            continue
        last = last if word in _SKIP else word
    return (words[0], last) if last else None


def _first_words(text: str) -> tuple[str, str] | None:
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    words = []
    for word in jieba.cut(text):
        if universal(word):
            words.append(word)
        if len(words) == 2:
            return words[0], words[1]
    return None


def nearest_scores(
    texts: list[str], language: str, against: list[str], limit: int = 2000
) -> tuple[list[float], list[float]]:
    """ROUGE-L F1 of (at most `limit`, evenly spaced) texts to the nearest of `against` and to the nearest other text."""
    known, own = Pool(language), Pool(language)
    against, texts = ([t for t in group if len(own.tokenize(t)) <= LONGEST] for group in (against, texts))
    for pool, members in ((known, against), (own, texts)):
        for text in members:
            pool.add(text)
    places = range(0, len(texts), max(1, -(-len(texts) // limit)))
    sample = [texts[place] for place in places]
    to_known = known.nearest_of(sample, [len(known)] * len(sample), 1) if len(known) else []
    to_own = own.nearest_of(sample, [len(own)] * len(sample), 2) if len(own) > 1 else []
    others = [max(m.score for m in near if m.row != place) for place, (near, _) in zip(places, to_own, strict=False)]
    return [near[0].score for near, _ in to_known], others
