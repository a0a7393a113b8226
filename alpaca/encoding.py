"""Texts to token ids in batches, with the exact length of each prompt. Knows no files, no masks and no model.

A prompt's length is what the tokenizer gives for the prompt alone, as Stanford Alpaca's train.py counts it; it is not
always a boundary of the tokenised whole ("Response:" + '"Hi"' may share the token ':"').
"""

import json
from itertools import chain
from typing import Any

import numpy as np

_SPACE = "\u2581"


class Encoder:
    """Batched encoding with any tokenizer of transformers, fast or not; special tokens in front, none behind."""

    def __init__(self, tokenizer: Any, special: bool = True) -> None:
        """`special=False`: the texts carry their own special tokens, as chat templates write them."""
        self.tokenizer = tokenizer
        self.special = special
        self.prefix, self._suffix = _surroundings(tokenizer) if special else (0, 0)
        self._backend = _plain_backend(tokenizer)
        self._spelled = _spelled_lengths(self._backend) if self._backend is not None and special else None

    def ids(self, texts: list[str], special: bool | None = None) -> list[list[int]]:
        """Token ids of each text; nothing truncated, nothing appended."""
        special = self.special if special is None else special
        if self._backend is not None:
            result = [e.ids for e in self._backend.encode_batch_fast(texts, add_special_tokens=special)]
        else:
            options = {"add_special_tokens": special, "return_attention_mask": False, "verbose": False}
            result = self.tokenizer(texts, **options)["input_ids"] if texts else []
        if special and self._suffix:  # the caller decides how a row ends
            return [ids[: -self._suffix] for ids in result]
        return result

    def pairs(self, sources: list[str], targets: list[str]) -> tuple[list[list[int]], list[int]]:
        """Ids of source + target, and the number of tokens of the source alone, for each pair."""
        whole = self.ids([s + t for s, t in zip(sources, targets, strict=True)])
        lengths = self._boundaries(sources, targets, whole)
        unsure = [i for i, length in enumerate(lengths) if length < 0]
        for i, ids in zip(unsure, self.ids([sources[i] for i in unsure]), strict=True):
            lengths[i] = len(ids)
        return whole, lengths

    def _boundaries(self, sources: list[str], targets: list[str], whole: list[list[int]]) -> list[int]:
        """Source lengths read off the tokenised whole where that is certain, else -1.

        Byte-pair merges never cross a boundary that is left at the end: if one stands where the source ends, the merges
        before it are those of the source alone. Certain also needs that the tokens spell the text byte for byte (no
        special or unknown token inside), and that the source ends in a mark that splits off whatever follows.
        """
        if self._spelled is None or not whole:
            return [-1] * len(whole)
        table, lead = self._spelled
        ends = np.cumsum([len(ids) for ids in whole])
        starts = np.concatenate(([0], ends[:-1]))
        spelled = np.cumsum(table[np.fromiter(chain.from_iterable(whole), dtype=np.int64, count=int(ends[-1]))])
        before = np.where(starts > 0, spelled[starts - 1], 0)
        source_bytes = np.array([len(s.encode()) for s in sources]) + lead
        total_bytes = source_bytes + np.array([len(t.encode()) for t in targets])
        at = np.minimum(np.searchsorted(spelled, before + source_bytes), ends - 1)
        certain = (spelled[at] - before == source_bytes) & (spelled[ends - 1] - before == total_bytes)
        certain &= np.array([bool(s) and _splits(s[-1]) for s in sources])
        return np.where(certain, at - starts + 1, -1).tolist()


def _splits(mark: str) -> bool:
    return not (mark.isspace() or mark.isalnum() or mark == "'")


def _surroundings(tokenizer: Any) -> tuple[int, int]:
    """How many special tokens the tokenizer puts before and after a text."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for before in range(len(whole) - len(plain) + 1):
        if whole[before : before + len(plain)] == plain:
            return before, len(whole) - before - len(plain)
    return 0, 0


def _plain_backend(tokenizer: Any) -> Any:
    """The tokenizers-library object behind a fast tokenizer whose class adds nothing of its own, else None.

    Called directly it gives the same ids in a third less time: no offsets, no masks.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    kind = type(tokenizer)
    if kind.__call__ is not PreTrainedTokenizerBase.__call__ or (
        getattr(kind, "_encode_plus", None) is not getattr(PreTrainedTokenizerFast, "_encode_plus", None)
    ):
        return None
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend


def _spelled_lengths(backend: Any) -> tuple[np.ndarray, int] | None:
    """(bytes of text that each token id spells, bytes put before a text), or None where ids do not spell the text."""
    parts = json.loads(backend.to_str())
    model, normalizer, splitter = parts["model"], parts["normalizer"], parts["pre_tokenizer"] or {}
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model.get("type") != "BPE" or any(model.get(name) for name in odd):
        return None
    bytewise = splitter.get("type") == "ByteLevel" and not splitter["add_prefix_space"] and normalizer is None
    spaced = (
        splitter.get("type") == "Metaspace"
        and not splitter["split"]
        and splitter["prepend_scheme"] in ("always", "first")
        and splitter["replacement"] == _SPACE
        and normalizer is None
    ) or (not splitter and _writes_spaces(normalizer))
    if not (bytewise or spaced):
        return None
    vocabulary = model["vocab"]
    added = {token["id"] for token in parts["added_tokens"]} | {vocabulary.get(model.get("unk_token"))}
    table = np.zeros(max([*vocabulary.values(), *(i for i in added if i is not None)]) + 1, dtype=np.int64)
    for token, number in vocabulary.items():
        if number not in added:  # these count nothing, so that a text that holds one is never taken for spelled
            table[number] = len(token) if bytewise else _bytes_of(token)
    return table, 0 if bytewise else 1


def _writes_spaces(normalizer: dict[str, Any] | None) -> bool:
    """Whether a normaliser puts a space in front and writes each space as U+2581, and does nothing else."""
    steps = (normalizer or {}).get("normalizers", [])
    return steps == [
        {"type": "Prepend", "prepend": _SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
    ]


def _bytes_of(token: str) -> int:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return 1
    return len(token.replace(_SPACE, " ").encode())
