"""Texts to token ids in batches, with the exact length of each prompt. Knows no files, no masks and no model.

A prompt's length is what the tokenizer gives for the prompt alone, as Stanford Alpaca's train.py counts it; it is not
always a boundary of the tokenised whole ("Response:" + '"Hi"' may share the token ':"').
"""

from typing import Any
from unicodedata import is_normalized

import numpy as np

from alpaca.pieces import Pieces
from alpaca.ragged import Ragged
from alpaca.spelling import spelling


class Encoder:
    """Batched encoding with any tokenizer of transformers, fast or not; special tokens in front, none behind."""

    def __init__(self, tokenizer: Any, special: bool = True) -> None:
        """`special=False`: the texts carry their own special tokens, as chat templates write them."""
        self.tokenizer = tokenizer
        self.special = special
        around = _surroundings(tokenizer) if special else None
        self._prefix, self._suffix = around or ([], 0)
        self._backend = _plain_backend(tokenizer)
        self._spelling = spelling(self._backend) if self._backend is not None and special else None
        self._pieces = None
        if around is not None and self._spelling is not None and self._spelling.apart.any():
            self._pieces = Pieces(self._backend, self._spelling)

    def ids(self, texts: list[str], special: bool | None = None) -> Ragged:
        """Token ids of each text; nothing truncated, nothing appended."""
        special = self.special if special is None else special
        if self._pieces is None:
            return self._whole(texts, special)
        found, certain = self._pieces.encode(texts)
        if special and self._prefix:
            front = np.array(self._prefix * len(texts), dtype=np.int32)
            found = Ragged(front, np.full(len(texts), len(self._prefix))).join(found)
        rest = np.flatnonzero(~certain)
        if not len(rest):
            return found
        return found.replace(rest, self._whole([texts[i] for i in rest], special))

    def _whole(self, texts: list[str], special: bool) -> Ragged:
        """Token ids by the tokenizer itself, text by text."""
        if self._backend is not None:
            result = [e.ids for e in self._backend.encode_batch_fast(texts, add_special_tokens=special)]
        else:
            options = {"add_special_tokens": special, "return_attention_mask": False, "verbose": False}
            result = self.tokenizer(texts, **options)["input_ids"] if texts else []
        if special and self._suffix:  # the caller decides how a row ends
            result = [ids[: -self._suffix] for ids in result]
        return Ragged.of(result)

    def pairs(self, sources: list[str], targets: list[str]) -> tuple[Ragged, np.ndarray]:
        """Ids of source + target, and the number of tokens of the source alone: int64 [pairs]."""
        whole = self.ids([s + t for s, t in zip(sources, targets, strict=True)])
        lengths = self._boundaries(sources, targets, whole)
        unsure = np.flatnonzero(lengths < 0)
        if len(unsure):
            lengths[unsure] = self.ids([sources[i] for i in unsure]).lengths
        return whole, lengths

    def _boundaries(self, sources: list[str], targets: list[str], whole: Ragged) -> np.ndarray:
        """Source lengths read off the tokenised whole where that is certain, else -1: int64 [pairs].

        Byte-pair merges never cross a boundary that is left at the end: if one stands where the source ends, the merges
        before it are those of the source alone. Certain also needs that the tokens spell the text byte for byte (no
        special or unknown token inside, nothing that NFC would change), and that the source ends in a mark that splits
        off whatever follows.
        """
        if self._spelling is None or not len(whole.values):
            return np.full(len(whole), -1)
        ends, starts = whole.ends, whole.starts
        spelled = np.cumsum(self._spelling.table[whole.values])
        before = np.where(starts > 0, spelled[starts - 1], 0)
        source_bytes = np.array([len(s.encode()) for s in sources]) + self._spelling.lead
        total_bytes = source_bytes + np.array([len(t.encode()) for t in targets])
        at = np.minimum(np.searchsorted(spelled, before + source_bytes), ends - 1)
        certain = (spelled[at] - before == source_bytes) & (spelled[ends - 1] - before == total_bytes)
        certain &= np.array([bool(s) and _splits(s[-1]) for s in sources])
        if self._spelling.composes:
            certain &= np.array([is_normalized("NFC", s + t) for s, t in zip(sources, targets, strict=True)])
        return np.where(certain, at - starts + 1, -1)


def _splits(mark: str) -> bool:
    return not (mark.isspace() or mark.isalnum() or mark == "'")


def _surroundings(tokenizer: Any) -> tuple[list[int], int] | None:
    """The special tokens that the tokenizer puts before a text, and how many after; null: not simply before and after."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for before in range(len(whole) - len(plain) + 1):
        if whole[before : before + len(plain)] == plain:
            return whole[:before], len(whole) - before - len(plain)
    return None


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
