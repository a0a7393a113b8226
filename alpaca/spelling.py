"""What the tokens of a byte-pair tokenizer spell, and where its merges cannot reach across. Knows no texts and no rows.

It reads the tokenizers library's own description. Whatever is not known for certain counts as unknown: null.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

_SPACE = "\u2581"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_PRINTABLE = range(ord("!"), ord("~") + 1)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
"""Splitting patterns of GPT-4's kind (Qwen's first) in which no match goes from a visible character on to a space."""


@dataclass
class Spelling:
    """How a tokenizer spells."""

    table: np.ndarray
    """Bytes of text that each token id spells, int64 [ids]; 0 for added and unknown tokens, which spell no text."""
    lead: int
    """Bytes put before a text: 1 for a space, else 0."""
    apart: np.ndarray
    """bool [256, 256]: whether a text may be tokenised in two parts between these two bytes, with the same ids."""
    added: re.Pattern[str] | None
    """Finds the added tokens in a text; null when there are none."""
    composes: bool
    """Whether a text is put into Unicode's NFC first, which may join its characters and change its bytes."""


def spelling(backend: Any) -> Spelling | None:
    """The spelling of a tokenizers-library object, or null where ids do not spell the text byte for byte."""
    parts = json.loads(backend.to_str())
    model = parts["model"]
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model.get("type") != "BPE" or any(model.get(name) for name in odd):
        return None
    bytewise = _bytewise(parts["normalizer"], parts["pre_tokenizer"] or {})
    if bytewise is None and not _spaced(parts["normalizer"], parts["pre_tokenizer"] or {}):
        return None
    tokens, composes = parts["added_tokens"], bool(bytewise and parts["normalizer"])
    if any(token["single_word"] or (composes and token["normalized"]) for token in tokens):
        return None  # whether such a token is found depends on what stands beside it, or on how its text is composed
    vocabulary = model["vocab"]
    added = {token["id"] for token in tokens} | {vocabulary.get(model.get("unk_token"))}
    table = np.zeros(max([*vocabulary.values(), *(i for i in added if i is not None)]) + 1, dtype=np.int64)
    for token, number in vocabulary.items():
        if number not in added:  # these count nothing, so that a text that holds one is never taken for spelled
            table[number] = len(token) if bytewise else _bytes_of(token)
    contents = [token["content"] for token in tokens]
    apart = np.zeros((256, 256), dtype=bool)
    if not any(set(content) & {" ", "\n", _SPACE} for content in contents):  # one that holds a cut could be missed
        for mark in bytewise if bytewise else " \n":
            apart[_PRINTABLE, ord(mark)] = True
        if not bytewise:
            _forbid_merged(apart, vocabulary)
            if apart.any() and all(map(str.isascii, contents)):
                _allow_unmerged(apart, vocabulary)
    pattern = re.compile("|".join(map(re.escape, contents))) if contents else None
    return Spelling(table, 0 if bytewise else 1, apart, pattern, composes)


def _bytewise(normalizer: Any, splitter: dict[str, Any]) -> str | None:
    """The marks before which a byte-level tokenizer always splits, if a visible ASCII character stands before them."""
    if normalizer is not None and normalizer.get("type") != "NFC":  # NFC joins no ASCII character to a space
        return None
    steps = splitter.get("pretokenizers", []) if splitter.get("type") == "Sequence" else [splitter]
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    if len(steps) == 1:
        return " \n" if steps[0].get("use_regex", True) else None
    first = steps[0]
    known = first.get("type") == "Split" and first["pattern"].get("Regex") in WORDS and first["behavior"] == "Isolated"
    return " " if known and len(steps) == 2 and not first["invert"] and not steps[1]["use_regex"] else None


def _spaced(normalizer: Any, splitter: dict[str, Any]) -> bool:
    """Whether a space is put in front, every space becomes U+2581, and nothing else happens before the merges."""
    if not splitter:
        steps = (normalizer or {}).get("normalizers", [])
        return steps == [
            {"type": "Prepend", "prepend": _SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        ]
    return (
        normalizer is None
        and splitter.get("type") == "Metaspace"
        and not splitter["split"]
        and splitter["prepend_scheme"] in ("always", "first")
        and splitter["replacement"] == _SPACE
    )


def _forbid_merged(apart: np.ndarray, vocabulary: dict[str, int]) -> None:
    """Take back the places that lie inside a token: every merge makes one, so that none reaches across the others."""
    for token in vocabulary:
        if len(token) > 6 and _BYTE.search(token):  # merges of single bytes do not show their characters
            apart[:] = False
            return
        for mark, written in ((" ", _SPACE), ("\n", "\n")):
            at = token.find(written, 1)
            while at > 0:
                if ord(token[at - 1]) < 128:
                    apart[ord(token[at - 1]), ord(mark)] = False
                at = token.find(written, at + 1)


def _allow_unmerged(apart: np.ndarray, vocabulary: dict[str, int]) -> None:
    """Add the places between two characters beyond ASCII that no token holds: scripts without spaces have no others."""
    free = np.zeros_like(apart)
    free[0x80:0xC0, 0xC2:0xF5] = True  # the last byte of one in UTF-8, the first of the next
    for token in vocabulary:
        if len(token) > 1 and not token.isascii():
            for one, next_one in zip(token, token[1:], strict=False):
                free[one.encode()[-1], next_one.encode()[0]] = False
    apart |= free


def _bytes_of(token: str) -> int:
    return 1 if _BYTE.fullmatch(token) else len(token.replace(_SPACE, " ").encode())
