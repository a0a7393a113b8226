"""A fast tokenizer from a folder that holds nothing but sentencepiece's `tokenizer.model`, with sentencepiece's own ids.

The general loader ranks the merges of such a model by vocabulary id. Sentencepiece ranks them by the score of the piece
that they make, and the two orders part wherever a low id has a low score: in LLaMA's model the run of two spaces.
Sentencepiece also puts its dummy space in front of a text that already starts with a space, where the loader does
not. Both are put right here, and the result is compared with sentencepiece before anyone gets it.

Knows no hub and repairs no special token.
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca.console import warn
from alpaca.errors import UserError
from alpaca.tokenizer_files import MODEL_FILE, NAMED_TOKENS, read_json, token_text

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

SPACE = "\u2581"  # how sentencepiece writes a space inside a piece
UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # SentencePiece.Type
KEPT_SETTINGS = ("model_max_length", "chat_template", "padding_side", "truncation_side")
_PROBES = (
    "Below is an instruction that describes a task.\n\n### Instruction:\nName three colours.\n\n### Response:",
    " a leading space", "a trailing space ", "two  spaces,   three,    four", "\ttab\r\n\n\n newline ",
    "def f(n):\n    if n == 0:\n        return 1\n            # deep\n", "1234567890 3.14159 1,000,000",
    "naïve café, fiancé; e\u0301 \u00a0 \u3000 \u200b", "中文分词：今天天气很好。", "emoji 🙂👩‍👩‍👧‍👦🇫🇷",
    "\u2581 \u2581\u2581x", "\x00\x01\x7f \ufffd", "", " ", "https://example.org/?q=a%20b&c=d#e",
    "ＦＵＬＬ ｗｉｄｔｈ ½ ﬁ", "نص عربي", "हिन्दी पाठ", "한국어",
)  # fmt: skip


def load_sentencepiece_folder(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of `folder/tokenizer.model`; beginning-of-sequence in front unless the folder's settings say no.

    Saved and loaded again by `AutoTokenizer` it gives the same ids. Raises `UserError` where the file is damaged or
    the ids would not be those of sentencepiece.
    """
    from transformers import PreTrainedTokenizerFast

    proto, reference = _read(folder)
    backend = _backend(proto, folder)
    _compare(backend, reference, folder)
    settings, added = _settings(folder)
    _add_tokens(backend, added, folder)
    specials = _special_tokens(proto, backend, settings, folder)
    wants_bos = settings.get("add_bos_token", True) is not False
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        name_or_path=str(folder),
        clean_up_tokenization_spaces=False,
        add_bos_token=wants_bos and "bos_token" in specials,
        add_eos_token=settings.get("add_eos_token") is True and "eos_token" in specials,
        **specials,
        **{name: settings[name] for name in KEPT_SETTINGS if settings.get(name) is not None},
    )


def _read(folder: Path) -> tuple[Any, "SentencePieceProcessor"]:
    """The model as its parts and as sentencepiece's own tokenizer."""
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    proto: Any = getattr(sentencepiece_model_pb2, "ModelProto")()  # noqa: B009 - made at run time, unknown to mypy
    try:
        data = (folder / MODEL_FILE).read_bytes()
        proto.ParseFromString(data)
        reference = SentencePieceProcessor(model_proto=data)
    except OSError as error:
        raise UserError(_fault(folder, f"cannot be read ({error.strerror})")) from error
    except Exception as error:  # protobuf and sentencepiece have an error each, and to a user both mean this
        raise UserError(_fault(folder, "is damaged, or no sentencepiece model")) from error
    if not any(piece.type == UNKNOWN for piece in proto.pieces):
        raise UserError(_fault(folder, "is damaged, or no sentencepiece model: it has no unknown piece"))
    return proto, reference


def _fault(folder: Path, what: str) -> str:
    return f"{folder / MODEL_FILE} {what}; give a folder with a tokenizer.json or a sound {MODEL_FILE}: model.tokenizer=DIR"


def _backend(proto: Any, folder: Path) -> "Tokenizer":
    """Model, normaliser and decoder of the sentencepiece model, with its control and user-defined pieces marked."""
    from tokenizers import AddedToken, Tokenizer, decoders

    dummy_prefix = proto.normalizer_spec.add_dummy_prefix
    backend = Tokenizer(_model(proto, folder))
    backend.normalizer = _normalizer(proto.normalizer_spec)
    strip = [decoders.Strip(content=" ", left=1)] if dummy_prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    marked = [p for p in proto.pieces if p.type in (UNKNOWN, CONTROL, USER_DEFINED)]
    backend.add_tokens([AddedToken(p.piece, normalized=False, special=p.type != USER_DEFINED) for p in marked])
    return backend


def _model(proto: Any, folder: Path) -> Any:
    from tokenizers import models

    spec = proto.trainer_spec
    unknown = next(i for i, piece in enumerate(proto.pieces) if piece.type == UNKNOWN)
    if spec.model_type == UNIGRAM:
        return models.Unigram([(p.piece, p.score) for p in proto.pieces], unknown, spec.byte_fallback)
    if spec.model_type != BPE:
        raise UserError(_fault(folder, "is neither a BPE nor a unigram model"))
    vocabulary = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    return models.BPE(
        vocab=vocabulary,
        merges=_merges(proto.pieces, vocabulary),
        unk_token=proto.pieces[unknown].piece,
        fuse_unk=True,
        byte_fallback=spec.byte_fallback,
    )


def _normalizer(spec: Any) -> Any:
    """Sentencepiece's order: character map, extra spaces, dummy prefix, then spaces as their visible sign."""
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:  # spaces only: a newline is a character like any other
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _merges(pieces: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a third, the best-scored result first, as sentencepiece takes them."""
    parts = {piece.piece for piece in pieces if piece.type == NORMAL}
    ranked = []
    for piece in pieces:
        whole = piece.piece
        for cut in range(1, len(whole)) if piece.type == NORMAL else ():
            left, right = whole[:cut], whole[cut:]
            if left in parts and right in parts:
                ranked.append((-piece.score, vocabulary[whole], vocabulary[left], vocabulary[right], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _compare(backend: "Tokenizer", reference: "SentencePieceProcessor", folder: Path) -> None:
    """Refuse a tokenizer whose ids are not sentencepiece's: on probes, runs of spaces and its whole vocabulary."""
    runs = [f"a{' ' * n}b{chr(10) * (n % 5)}{' ' * (n % 7)}" for n in range(1, 40)]
    # A control piece written in a text is a token to one and plain characters to the other, on purpose.
    plain = [i for i in range(len(reference)) if not (reference.is_control(i) or reference.is_unknown(i))]
    pieces = [reference.id_to_piece(i).replace(SPACE, " ") for i in plain if not reference.is_byte(i)]
    texts = [*_PROBES, *runs, *("".join(pieces[at : at + 60]) for at in range(0, len(pieces), 60))]
    # Where two ways to cut a text score the same, a unigram model's two readers may take one each: look for such ties.
    draw, letters = random.Random(0), [piece for piece in pieces if len(piece) == 1]
    texts += ["".join(draw.choices(source, k=12)) for source in (pieces, letters) if source for _ in range(1000)]
    ours = backend.encode_batch(texts, add_special_tokens=False)
    for text, got, want in zip(texts, ours, reference.encode(texts), strict=True):
        if got.ids != want:
            what = f"cannot be converted: {text[:40]!r} would not get the ids that sentencepiece gives"
            raise UserError(_fault(folder, what))


def _settings(folder: Path) -> tuple[dict[str, Any], dict[int, Any]]:
    """What the JSON files beside the model say, and the tokens that they list, by id."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            found.update(read_json(folder / name))
    added = {int(i): token for i, token in (found.get("added_tokens_decoder") or {}).items()}
    if (folder / "added_tokens.json").exists():
        added = {i: content for content, i in read_json(folder / "added_tokens.json").items()} | added
    if (template := folder / "chat_template.jinja").exists():
        found["chat_template"] = template.read_text(encoding="utf-8")
    return found, added


def _add_tokens(backend: "Tokenizer", added: dict[int, Any], folder: Path) -> None:
    """Add the tokens that the folder lists beyond its model, each at the id that it is listed with."""
    for token_id, token in sorted(added.items()):
        if (text := token_text(token)) is None:
            continue
        if backend.token_to_id(text) is None:
            backend.add_tokens([_added_token(text, token)])
        if backend.token_to_id(text) != token_id:
            raise UserError(
                f"{folder}: the added token {text!r} is listed with id {token_id}, but its place is "
                f"{backend.token_to_id(text)}; mend added_tokens.json, or give another folder: model.tokenizer=DIR"
            )


def _added_token(text: str, token: Any) -> "AddedToken":
    from tokenizers import AddedToken

    given = token if isinstance(token, dict) else {}
    flags = {name: given[name] for name in ("lstrip", "rstrip", "single_word") if name in given}
    return AddedToken(text, special=given.get("special", True), normalized=given.get("normalized", False), **flags)


def _special_tokens(proto: Any, backend: "Tokenizer", settings: dict[str, Any], folder: Path) -> dict[str, str]:
    """The named special tokens: as the settings say, else (unsaid, or not in the vocabulary) as the model has them."""
    spec, tokens = proto.trainer_spec, {}
    for name in NAMED_TOKENS:
        own_id, text = getattr(spec, name.replace("_token", "_id")), token_text(settings.get(name))
        own = proto.pieces[own_id].piece if 0 <= own_id < len(proto.pieces) else None
        if text is not None and own is not None and backend.token_to_id(text) is None:
            warn(f"{folder}: {name}={text!r} is not in the vocabulary; {own!r}, as {MODEL_FILE} has it, is used")
            text = own
        if chosen := text or own:
            tokens[name] = chosen
    return tokens
