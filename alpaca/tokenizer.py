"""The tokenizer: loaded from a folder or the hub, trained on the spot, and its special tokens checked and repaired.

Knows no model weights (whoever holds them grows the embeddings to `len(tokenizer)`) and no data preparation.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca.console import warn
from alpaca.errors import UserError
from alpaca.sentencepiece_folder import load_sentencepiece_folder
from alpaca.tokenizer_files import (
    MODEL_FILE,
    NAMED_TOKENS,
    WAY_OUT,
    read_json,
    read_settings,
    token_text,
    tokenizer_folder,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD = "[PAD]"
SPARE_PADS = (PAD, "<pad>", "<|pad|>", "<|finetune_right_pad_id|>")
LLAMA_SPECIALS = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2 of the LLaMA vocabulary
KNOWN_EOS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>")


def load_tokenizer(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The tokenizer of a local folder or a hub id, as its files say: `check_special_tokens` repairs it.

    A folder whose only vocabulary is `tokenizer.model` gives sentencepiece's own ids. Raises `UserError` when the
    source is missing, damaged or out of reach; without a network that takes seconds.
    """
    folder = tokenizer_folder(source, revision=revision, with_code=trust_remote_code)
    settings = read_settings(folder)
    sentencepiece_only = (folder / MODEL_FILE).exists() and not (folder / "tokenizer.json").exists()
    if sentencepiece_only and not (trust_remote_code and "auto_map" in settings):
        return _load(folder, lambda: load_sentencepiece_folder(folder))
    tokenizer = _load(folder, lambda: _auto_tokenizer(folder, settings, trust_remote_code))
    _warn_of_new_tokens(folder, settings)
    return tokenizer


def _load(folder: Path, build: Callable[[], Any]) -> "PreTrainedTokenizerBase":
    """`build()`, with whatever the libraries raise over bad files as one line that names the folder."""
    try:
        return build()
    except UserError:
        raise
    except Exception as error:  # a damaged file surfaces as anything from KeyError to a bare Rust exception
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{folder}: its tokenizer needs Python code of its own; read that code and set "
                f"model.trust_remote_code=true, or {WAY_OUT}"
            ) from error
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{folder}: its tokenizer files do not load ({type(error).__name__}: {reason}); mend them, or {WAY_OUT}"
        ) from error


def _auto_tokenizer(folder: Path, settings: dict[str, Any], trust_remote_code: bool) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    # Empty names send the library into endless recursion; None is its word for "there is none".
    empty = {name: None for name in NAMED_TOKENS if name in settings and token_text(settings[name]) is None}
    return AutoTokenizer.from_pretrained(
        str(folder), trust_remote_code=trust_remote_code, local_files_only=not trust_remote_code, **empty
    )


def _warn_of_new_tokens(folder: Path, settings: dict[str, Any]) -> None:
    """Say when the settings name a token that no vocabulary of the folder has: the library adds it, untrained."""
    if (folder / "tokenizer.json").exists():
        content = read_json(folder / "tokenizer.json")
        pieces = content["model"]["vocab"]
        known = set(pieces) if isinstance(pieces, dict) else {entry[0] for entry in pieces}
        known |= {token["content"] for token in content.get("added_tokens") or []}
    elif (folder / "vocab.json").exists():
        known = set(read_json(folder / "vocab.json"))
        known |= set(read_json(folder / "added_tokens.json")) if (folder / "added_tokens.json").exists() else set()
    else:
        return
    known |= {token_text(token) for token in (settings.get("added_tokens_decoder") or {}).values()}
    for name in ("bos_token", "eos_token"):
        text = token_text(settings.get(name))
        if text is not None and text not in known:
            warn(f"{folder}: {name}={text!r} is not in the vocabulary; it is added, and its meaning has to be learnt")


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, folder: str | Path, *, model_type: str
) -> "PreTrainedTokenizerBase":
    """Train a byte-level BPE tokenizer of at most `vocab_size` tokens on `texts` and save it to `folder`.

    The same texts give the same bytes. `<s>` goes in front of every text; any Unicode text comes back as it was.
    `model_type` sets the order of the special tokens, so that their ids are the defaults of that family.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    specials = ["<s>", "<pad>", "</s>"] if model_type == "opt" else ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(alphabet) + len(specials)
    if vocab_size < least:
        raise UserError(f"model.vocab_size={vocab_size} is not allowed: every byte needs a token, so {least} or more")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    # A pair seen once would put a row's own words into the vocabulary.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        add_bos_token=True,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(str(folder))
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def check_special_tokens(tokenizer: "PreTrainedTokenizerBase", *, architecture_config: Any = None) -> list[str]:
    """Repair the special tokens of `tokenizer` in place for training; returns one notice for each thing to know.

    `architecture_config` is the model's config (object or dict). A padding token that has to be added makes
    `len(tokenizer)` one larger. On a tokenizer repaired, saved and loaded again it changes nothing. Raises
    `UserError` where no end-of-sequence token can be found.
    """
    notices = _drop_empty(tokenizer)
    notices += _repair_llama(tokenizer)
    notices += _require_eos(tokenizer, architecture_config)
    notices += _check_edges(tokenizer)
    notices += _require_pad(tokenizer)
    notices += _compare_with_config(tokenizer, architecture_config)
    tokenizer.padding_side = "right"
    return notices


def _drop_empty(tokenizer: Any) -> list[str]:
    empty = [name for name in NAMED_TOKENS if getattr(tokenizer, name) == ""]
    for name in empty:
        setattr(tokenizer, name, None)
    return [f"{name} was an empty string: counted as missing" for name in empty]


def _repair_llama(tokenizer: Any) -> list[str]:
    """The first conversions of LLaMA named no special tokens, or took the ids one too low, or `</s>` for all three."""
    unk, bos, eos = LLAMA_SPECIALS
    if tuple(tokenizer.convert_ids_to_tokens([0, 1, 2])) != LLAMA_SPECIALS:
        return []
    wrong = {}
    if tokenizer.eos_token in (None, unk, bos):
        wrong["eos_token"] = eos
    if tokenizer.bos_token in (unk, eos) or (tokenizer.bos_token is None and wrong):
        wrong["bos_token"] = bos
    if tokenizer.unk_token in (bos, eos) or (tokenizer.unk_token is None and wrong):
        wrong["unk_token"] = unk
    had = {name: getattr(tokenizer, name) for name in wrong}
    tokenizer.add_special_tokens(dict(wrong))
    if "bos_token" in wrong:
        tokenizer.add_bos_token = True
    return [f"{name} was {had[name]!r}: set to {text!r}, as the vocabulary has it" for name, text in wrong.items()]


def _require_eos(tokenizer: Any, config: Any) -> list[str]:
    """An end-of-sequence token that is one id, found in the vocabulary where the files name none."""
    notices, where = [], tokenizer.name_or_path or "the tokenizer"
    if tokenizer.eos_token is None:
        vocabulary = tokenizer.get_vocab()
        named = [tokenizer.convert_ids_to_tokens(i) for i in _ids(config, "eos_token_id") if i in range(len(tokenizer))]
        marked = [text for text in named if text in tokenizer.get_added_vocab()]
        found = next((text for text in (*marked, *KNOWN_EOS) if text in vocabulary), None)
        if found is None:
            raise UserError(f"{where} has no end-of-sequence token (eos_token), and none is known in it; {WAY_OUT}")
        tokenizer.add_special_tokens({"eos_token": found})
        notices.append(f"eos_token was missing: set to {found!r}, as the vocabulary has it")
    ids = tokenizer.encode(tokenizer.eos_token, add_special_tokens=False)
    if ids != [tokenizer.eos_token_id]:
        raise UserError(f"{where}: eos_token={tokenizer.eos_token!r} is no single token (ids {ids}); {WAY_OUT}")
    return notices


def _edges(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer itself puts in front of and behind a text."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    full = tokenizer.encode("a")
    at = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:at], full[at + len(bare) :]


def _check_edges(tokenizer: Any) -> list[str]:
    """Nothing behind the text: a prompt that ends by EOS asks for no answer. In front: as the family does it."""
    front, behind = _edges(tokenizer)
    notices = []
    if tokenizer.eos_token_id in behind and front in ([], [tokenizer.bos_token_id]):
        tokenizer.add_bos_token = bool(front)
        tokenizer.add_eos_token = False
        notices.append(
            f"the tokenizer put {tokenizer.eos_token!r} behind every text: turned off, answers end by it alone"
        )
    if tokenizer.bos_token is not None and tokenizer.bos_token_id not in front:
        notices.append(f"the tokenizer has {tokenizer.bos_token!r} but does not put it in front of a text: left so")
    return notices


def _require_pad(tokenizer: Any) -> list[str]:
    """A padding token that is not EOS, or masking the padding would mask the end of every answer too."""
    had = tokenizer.pad_token
    if had is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return []
    vocabulary, taken = tokenizer.get_vocab(), (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token)
    spare = next((text for text in SPARE_PADS if text in vocabulary and text not in taken), PAD)
    before = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": spare})
    grown = len(tokenizer) > before
    why = "was missing" if had is None else f"was {had!r}, the end-of-sequence token too"
    size = f"added, {len(tokenizer):,} tokens now" if grown else "which the vocabulary has"
    return [f"pad_token {why}: {spare!r} is used, {size}"]


def _ids(config: Any, name: str) -> list[int]:
    """A token id of a model's config, which may hold none, one or several, and -1 for none."""
    value = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
    return [i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int) and i >= 0]


def _compare_with_config(tokenizer: Any, config: Any) -> list[str]:
    notices = []
    for name in ("bos_token_id", "eos_token_id"):
        own, ids = getattr(tokenizer, name), _ids(config, name)
        if own is not None and ids and own not in ids:
            said = ids[0] if len(ids) == 1 else ids
            notices.append(f"the model's config says {name}={said}, its tokenizer {own}: {own} is used")
    return notices
