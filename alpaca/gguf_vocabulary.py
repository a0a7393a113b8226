"""A Hugging Face tokenizer in the words of GGUF: pieces, types, scores or merges. Knows no weights.

Two kinds: `llama` (SentencePiece's BPE with byte fallback, as LLaMA 1 and 2) and `gpt2` (byte-level BPE, as this
project trains and LLaMA 3 has). Any other is refused: a tokenizer that splits otherwise would quietly give other ids.
"""

import json
from dataclasses import dataclass
from typing import Any

from alpaca.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SPLITS = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+": "llama-bpe",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+": "qwen2",
}
"""Regular expression by which a byte-level tokenizer splits -> llama.cpp's name for it."""


@dataclass
class Vocabulary:
    """What GGUF keeps of a tokenizer, a row for each embedding."""

    kind: str
    split: str
    pieces: list[str]
    types: list[int]
    scores: list[float] | None
    merges: list[str] | None
    space_in_front: bool


def vocabulary(tokenizer: Any, rows: int) -> Vocabulary:
    """Of a fast tokenizer, filled or cut to `rows`. Raises UserError for a kind that llama.cpp would read otherwise."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("format=gguf needs a fast tokenizer (tokenizer.json): this one has none")
    content = json.loads(backend.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        raise UserError(f"format=gguf takes byte-pair tokenizers: this one is {model['type']}")
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    kind, split = ("llama", "default") if model.get("byte_fallback") else ("gpt2", _split(content))
    pieces = [f"[unused{i}]" for i in range(rows)]
    types = [UNUSED] * rows
    for piece, number in model["vocab"].items():
        if number < rows:
            pieces[number], types[number] = piece, _type(piece, kind, model.get("unk_token"))
    for token in content["added_tokens"]:
        if token["id"] < rows:
            known = types[token["id"]] == UNKNOWN
            pieces[token["id"]] = token["content"]
            types[token["id"]] = UNKNOWN if known else CONTROL if token["special"] else USER_DEFINED
    scores = _scores(pieces, merges) if kind == "llama" else None
    # `▁` in front of a text, by either of the two ways in which a converted SentencePiece tokenizer says so
    front = any(f'"{mark}"' in json.dumps([content["normalizer"], content["pre_tokenizer"]]) for mark in ("Prepend", "always", "first"))  # fmt: skip
    return Vocabulary(kind, split, pieces, types, scores, merges if kind == "gpt2" else None, front)


def _type(piece: str, kind: str, unknown: str | None) -> int:
    if piece == unknown:
        return UNKNOWN
    byte = kind == "llama" and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
    return BYTE if byte else NORMAL


def _split(content: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer splits a text. Raises UserError for one that it has not."""
    step = content["pre_tokenizer"] or {}
    steps = step["pretokenizers"] if step.get("type") == "Sequence" else [step]
    if steps[-1].get("type") == "ByteLevel" and not steps[-1].get("add_prefix_space") and content["normalizer"] is None:
        if len(steps) == 1 and steps[0].get("use_regex", True):
            return "gpt-2"
        if len(steps) == 2 and steps[0].get("type") == "Split":
            name = _SPLITS.get(steps[0].get("pattern", {}).get("Regex", ""))
            if name is not None:
                return name
    raise UserError(
        "format=gguf: this tokenizer splits texts in a way that is known neither as GPT-2's, LLaMA-3's nor Qwen-2's: "
        "llama.cpp would give other ids; use format=hf"
    )


def _scores(pieces: list[str], merges: list[str]) -> list[float]:
    """SentencePiece joins the pair whose result scores best; the order of the merges is that of the scores."""
    rank: dict[str, int] = {}
    for number, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), number)
    return [-float(rank.get(piece, len(merges))) for piece in pieces]


def chat_template(prompt: Any, tokenizer: Any) -> str | None:
    """The prompt as the Jinja template that llama.cpp applies to messages: the last one is the instruction."""
    if prompt is None or prompt.kind == "chat":
        return getattr(tokenizer, "chat_template", None)
    before, after = prompt.without_input.split("{instruction}", 1)
    front = "{{ bos_token }}" if starts_with_bos(tokenizer) else ""
    return front + "{{ " + json.dumps(before) + " + messages[-1]['content'] + " + json.dumps(after) + " }}"


def starts_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts BOS in front of a text."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
