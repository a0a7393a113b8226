"""Tokenizers: loading, training on the spot, sentencepiece's own ids, special tokens, and every way a folder is broken."""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alpaca import console, tokenizer_files
from alpaca.errors import UserError
from alpaca.tokenizer import check_special_tokens, load_tokenizer, train_tokenizer

TEXTS = [f"Name {n} colours of the rainbow.\n\n  They are red, orange,   yellow and green ({n})." for n in range(60)]
TEXTS += ["def square(n):\n    if n == 0:\n        return 0\n    return n * n\n", "    four    spaces    apart"] * 20
UNIGRAM = {"model_type": "unigram", "remove_extra_whitespaces": True, "allow_whitespace_only_pieces": False}
ODD = [
    "",
    "plain",
    " leading",
    "  two leading",
    "trailing  ",
    "a  b   c    d     e",
    "\n\n\tcode:\n        return 1\n",
    "中文分词，很好。",
    "🙂👩‍👩‍👧‍👦🇫🇷",
    "e\u0301 é \u00a0 \u3000 \u200b",
    "\x00\x01\x7f\ufffd",
    "▁ ▁▁x",
]


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(os.environ.get("ALPACA_SHARED", Path(__file__).parents[1] / ".." / "shared")).resolve()
    if not (folder / "tokenizers").is_dir():
        pytest.skip(f"the real tokenizers are not there ({folder}): set ALPACA_SHARED")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer that was trained on the spot."""
    folder = tmp_path_factory.mktemp("trained")
    train_tokenizer(TEXTS, 400, folder, model_type="llama")
    return folder


def random_words() -> list[str]:
    """Lines in which no two words are equally frequent, so that a unigram model finds one best way to cut each."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlucmfwyp0123456789", range(28, 0, -1), k=n % 7 + 1)) for n in range(2000)]
    return [" ".join(draw.choices(words, k=8)) for _ in range(600)]


def sentencepiece_model(lines: list[str] | None = None, **settings) -> bytes:
    import sentencepiece

    lines = lines or (random_words() if settings.get("model_type") == "unigram" else TEXTS)
    out = io.BytesIO()
    defaults = {
        "model_type": "bpe",
        "vocab_size": 400,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, **{**defaults, **settings}
    )
    return out.getvalue()


def low_ids_for_late_merges(model: bytes) -> bytes:
    """The same model with its worst-scored merges moved to the front, as LLaMA has the run of two spaces."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    merged = [i for i, p in enumerate(proto.pieces) if p.type == 1 and len(p.piece) > 1]
    moved = [type(p)() for p in proto.pieces]
    for target, source in zip(merged, reversed(merged), strict=True):
        moved[target].CopyFrom(proto.pieces[source])
    for i in merged:
        proto.pieces[i].CopyFrom(moved[i])
    return proto.SerializeToString()


@pytest.fixture(scope="session")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LLaMA-like `tokenizer.model` (<unk> 0, <s> 1, </s> 2, bytes) and nothing else."""
    folder = tmp_path_factory.mktemp("spm")
    (folder / "tokenizer.model").write_bytes(low_ids_for_late_merges(sentencepiece_model()))
    return folder


def reload(tokenizer, folder: Path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(str(folder))
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def reference(folder: Path):
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


# --- folders with only tokenizer.model -------------------------------------------------------------------------------


def test_sentencepiece_ids_on_a_model_whose_ids_are_not_in_merge_order(spm: Path, tmp_path: Path):
    from transformers import AutoTokenizer

    texts, theirs = [*ODD, *TEXTS], reference(spm)
    want = [[1, *theirs.encode(text)] for text in texts]
    tokenizer = load_tokenizer(str(spm))
    assert [tokenizer(text)["input_ids"] for text in texts] == want
    again = reload(tokenizer, tmp_path)
    assert [again(text)["input_ids"] for text in texts] == want
    (spm / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    try:  # beside a model's config the class is chosen by another rule
        assert [AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] for text in texts] == want
        plain = AutoTokenizer.from_pretrained(spm)
        assert [plain(text)["input_ids"] for text in texts] != want, (
            "the library alone does it now: drop the conversion"
        )
    finally:
        (spm / "config.json").unlink()
    lossless = [text for text in texts if "▁" not in text]  # sentencepiece reads its own sign for a space as a space
    assert [tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) for text in lossless] == lossless


@pytest.mark.parametrize(
    "settings",
    [
        UNIGRAM,
        {**UNIGRAM, "byte_fallback": False, "normalization_rule_name": "nmt_nfkc"},
        {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
        {"add_dummy_prefix": False},
        {"add_dummy_prefix": False, "user_defined_symbols": ["<tool>", "<call>"]},
        {"byte_fallback": False},
        {"split_digits": True},
        {"remove_extra_whitespaces": True},
    ],
    ids=lambda settings: ",".join(f"{k}={v}" for k, v in settings.items()),
)
def test_sentencepiece_ids_of_other_kinds_of_model(settings: dict, tmp_path: Path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(**settings))
    tokenizer, theirs = load_tokenizer(str(tmp_path)), reference(tmp_path)
    for text in [*ODD, *TEXTS[:5], "a<tool>b <call>", " 12 345 "]:
        ids = theirs.encode(text)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids, text
        if theirs.unk_id() not in ids and "▁" not in text:
            assert tokenizer.decode(ids) == theirs.decode(ids), text


@pytest.mark.parametrize(
    "make",
    [
        lambda: sentencepiece_model(treat_whitespace_as_suffix=True),
        lambda: sentencepiece_model(user_defined_symbols=["<tool>"]),
        lambda: sentencepiece_model(TEXTS, **UNIGRAM),
    ],
    ids=["space behind", "symbols after a dummy prefix", "unigram with ties"],
)
def test_a_model_that_cannot_be_converted_is_refused(tmp_path: Path, make):
    (tmp_path / "tokenizer.model").write_bytes(make())
    with pytest.raises(UserError, match="would not get the ids that sentencepiece gives"):
        load_tokenizer(str(tmp_path))


def test_settings_beside_the_model_are_kept(spm: Path, tmp_path: Path):
    size = len(reference(spm))
    shutil.copy(spm / "tokenizer.model", tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": size + 1, "[PAD]": size}))
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": {"content": "[PAD]"}, "eos_token": "<|im_end|>"})
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False, "model_max_length": 77}))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (size, size + 1, size + 2)
    assert tokenizer("plain")["input_ids"] == reference(spm).encode("plain")
    assert (tokenizer.model_max_length, tokenizer.chat_template) == (77, "{{ messages }}")
    assert check_special_tokens(tokenizer) == [
        "the tokenizer has '<s>' but does not put it in front of a text: left so"
    ]
    assert tokenizer.encode("a<|im_end|>")[-1] == size + 1


def test_llama_from_sentencepiece_alone(shared: Path, tmp_path: Path):
    folder = shared / "tokenizers" / "llama_sentencepiece_only"
    tokenizer, theirs = load_tokenizer(str(folder)), reference(folder)
    rows = json.loads((shared / "data" / "alpaca_data.json").read_text(encoding="utf-8"))[:512]
    texts = [row["instruction"] + "\n\n" + row["input"] + "\n\n### Response:" + row["output"] for row in rows]
    texts += [f"{c * n}x{c * n}" for n in range(1, 50) for c in " \n\t=0▁"] + ODD
    want = [[1, *ids] for ids in theirs.encode(texts)]
    assert tokenizer(texts)["input_ids"] == want
    assert reload(tokenizer, tmp_path)(texts)["input_ids"] == want
    assert tokenizer.batch_decode(want[:512], skip_special_tokens=True) == texts[:512]


# --- real tokenizers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ids", "size", "pad"),
    [
        ("llama", [1, 13866, 338, 385, 15278, 393], 32001, 32000),
        ("llama_sentencepiece_only", [1, 13866, 338, 385, 15278, 393], 32001, 32000),
        ("opt", [2, 45943, 16, 41, 15741, 14], 50265, 1),
    ],
)
def test_real_tokenizers_before_and_after_saving(shared: Path, tmp_path: Path, name, ids, size, pad):
    tokenizer = load_tokenizer(str(shared / "tokenizers" / name))
    notices = check_special_tokens(tokenizer)
    assert [n for n in notices if "[PAD]" not in n] == [] and len(notices) == (pad == 32000)
    again = load_tokenizer(str(reload(tokenizer, tmp_path).name_or_path))
    assert check_special_tokens(again) == []
    for each in (tokenizer, again):
        assert each("Below is an instruction that")["input_ids"] == ids
        assert (len(each), each.pad_token_id, each.eos_token_id, each.padding_side) == (size, pad, 2, "right")


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model_type", "special"), [("llama", (1, 2, 0)), ("opt", (0, 2, 1))])
def test_trained_tokenizer(tmp_path: Path, model_type: str, special: tuple):
    from transformers import AutoTokenizer

    tokenizer = train_tokenizer(iter(TEXTS), 400, tmp_path, model_type=model_type)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for each in (tokenizer, loaded):
        assert (each.bos_token, each.eos_token, each.pad_token) == ("<s>", "</s>", "<pad>")
        assert (each.bos_token_id, each.eos_token_id, each.pad_token_id) == special
        assert 300 < len(each) <= 400
        for text in [*ODD, *TEXTS[:3], "".join(map(chr, range(0x2500))), " don't , 've  . "]:
            ids = each.encode(text)
            assert ids[0] == special[0] and ids[1:] == each.encode(text, add_special_tokens=False)
            assert each.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer.encode(TEXTS[0])) < len(TEXTS[0]) / 2, "nothing was learnt from the texts"
    assert check_special_tokens(tokenizer) == []


def test_training_is_deterministic_between_processes(tmp_path: Path):
    # Ties are many here, and each process has its own hash seed and number of threads.
    program = (
        "import sys; from alpaca.tokenizer import train_tokenizer;"
        "texts = [f'{a}{b} {b}{a}' for a in 'abcdefgh' for b in 'qrstuvwx'] * 3;"
        "train_tokenizer(texts, 330, sys.argv[1], model_type='llama')"
    )
    runs = []
    for n in (1, 2):
        environment = {**os.environ, "PYTHONHASHSEED": str(n), "RAYON_NUM_THREADS": str(n)}
        command = [sys.executable, "-c", program, str(tmp_path / str(n))]
        runs.append(subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[1]))
    train_tokenizer([f"{a}{b} {b}{a}" for a in "abcdefgh" for b in "qrstuvwx"] * 3, 330, tmp_path, model_type="llama")
    assert [run.wait(60) for run in runs] == [0, 0]
    written = {(folder / "tokenizer.json").read_bytes() for folder in (tmp_path, tmp_path / "1", tmp_path / "2")}
    assert len(written) == 1


def test_vocabulary_too_small_for_the_bytes(tmp_path: Path):
    with pytest.raises(UserError, match=r"model\.vocab_size=100 is not allowed.*259 or more"):
        train_tokenizer(TEXTS, 100, tmp_path, model_type="llama")


# --- folders that cannot be loaded -----------------------------------------------------------------------------------


def edit(folder: Path, name: str, **changes) -> None:
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))


def edit_model(folder: Path, **changes) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"].update(changes)
    path.write_text(json.dumps(content))


def cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-200])


def only(folder: Path, name: str, content: bytes) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_bytes(content)


def instead(folder: Path, name: str, make) -> None:
    (folder / name).unlink()
    make(folder / name)


def file_for_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("{}")


BROKEN = {
    "missing": (shutil.rmtree, "is not there"),
    "a file": (file_for_folder, "is a file"),
    "empty": (lambda f: [p.unlink() for p in f.iterdir()], "holds no tokenizer: looked for tokenizer.json"),
    "weights only": (lambda f: only(f, "config.json", b'{"model_type": "llama"}'), "holds no tokenizer"),
    "tokenizer.json truncated": (lambda f: cut(f, "tokenizer.json"), "tokenizer.json is damaged: it is not JSON"),
    "tokenizer.json empty": (lambda f: (f / "tokenizer.json").write_text(""), "tokenizer.json is damaged"),
    "tokenizer.json HTML": (lambda f: (f / "tokenizer.json").write_text("<html>404</html>"), "is not JSON"),
    "tokenizer.json not UTF-8": (lambda f: (f / "tokenizer.json").write_bytes(b'{"a": "\xff"}'), "is not JSON"),
    "tokenizer.json nested for ever": (lambda f: (f / "tokenizer.json").write_text("[" * 200000), "is not JSON"),
    "tokenizer.json list": (lambda f: (f / "tokenizer.json").write_text("[]"), "holds no JSON object"),
    "tokenizer.json number": (lambda f: (f / "tokenizer.json").write_text("7"), "holds no JSON object"),
    "tokenizer.json {}": (lambda f: (f / "tokenizer.json").write_text("{}"), "do not load"),
    "tokenizer.json git-lfs": (
        lambda f: (f / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\nsize 12\n"),
        "is not JSON",
    ),
    "tokenizer.json a folder": (lambda f: instead(f, "tokenizer.json", Path.mkdir), "cannot be read"),
    "tokenizer.json dangling": (lambda f: instead(f, "tokenizer.json", lambda p: p.symlink_to("no")), "cannot be read"),
    "model null": (lambda f: edit(f, "tokenizer.json", model=None), "do not load"),
    "model of no known type": (lambda f: edit_model(f, type="Oracle"), "do not load"),
    "vocabulary a list": (lambda f: edit_model(f, vocab=["a", "b"]), "do not load"),
    "ids that are words": (lambda f: edit_model(f, vocab={"a": "one"}), "do not load"),
    "merges without vocabulary": (lambda f: edit_model(f, vocab={}), "do not load"),
    "merges of unknown pieces": (lambda f: edit_model(f, merges=[["qq", "zz"]]), "do not load"),
    "added tokens of words": (lambda f: edit(f, "tokenizer.json", added_tokens=["x"]), "do not load"),
    "settings truncated": (lambda f: cut(f, "tokenizer_config.json"), "tokenizer_config.json is damaged"),
    "settings a list": (lambda f: (f / "tokenizer_config.json").write_text("[1]"), "holds no JSON object"),
    "bos a number": (lambda f: edit(f, "tokenizer_config.json", bos_token=1), "bos_token=1 is not allowed"),
    "eos a list": (lambda f: edit(f, "tokenizer_config.json", eos_token=["</s>"]), "eos_token=.* is not allowed"),
    "eos an empty object": (
        lambda f: edit(f, "tokenizer_config.json", eos_token={"content": 3}),
        "eos_token=.* is not allowed",
    ),
    "special map truncated": (lambda f: (f / "special_tokens_map.json").write_text('{"bos'), "map.json is damaged"),
    "needs code": (
        lambda f: edit(f, "tokenizer_config.json", tokenizer_class="Mine", auto_map={"AutoTokenizer": ["m.Mine", None]}),
        "trust_remote_code=true",
    ),
    "vocab.json without merges": (lambda f: only(f, "vocab.json", b'{"a": 0}'), "without the merges.txt"),
    "merges.txt without vocab": (lambda f: only(f, "merges.txt", b"a b"), "holds no tokenizer"),
    "model random bytes": (lambda f: only(f, "tokenizer.model", bytes(range(256)) * 9), "is damaged, or no sentencepiece"),
    "model empty": (lambda f: only(f, "tokenizer.model", b""), "is damaged, or no sentencepiece"),
    "model truncated": (lambda f: only(f, "tokenizer.model", sentencepiece_model()[:-100]), "is damaged, or no"),
    "model is JSON": (lambda f: only(f, "tokenizer.model", b'{"a": 1}'), "is damaged, or no sentencepiece"),
    "model of words": (
        lambda f: only(f, "tokenizer.model", sentencepiece_model(model_type="word", byte_fallback=False)),
        "neither a BPE nor a unigram",
    ),
    "model dangling": (
        lambda f: (only(f, "x", b""), (f / "tokenizer.model").symlink_to("no")),
        "cannot be read|holds no tokenizer|do not load",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folder(trained: Path, tmp_path: Path, case: str):
    folder = tmp_path / "broken"
    shutil.copytree(trained, folder)
    breaks, what = BROKEN[case]
    breaks(folder)
    with pytest.raises(UserError, match=what) as caught:
        load_tokenizer(str(folder))
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message and len(message) < 600
    assert "model.tokenizer=DIR" in message


@pytest.mark.parametrize(
    ("added", "what"),
    [({"[PAD]": 900}, "listed with id 900"), ([1], "no JSON object"), ({"x": "y"}, "listed with id y")],
)
def test_broken_added_tokens_beside_a_sentencepiece_model(spm: Path, tmp_path: Path, added, what: str):
    shutil.copy(spm / "tokenizer.model", tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(UserError, match=what) as caught:
        load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["iterdir", "read_text", "read_bytes"])
def test_unreadable(spm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    shutil.copy(spm / "tokenizer.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, name, refuse)  # root may read everything: a mode would not do
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)") as caught:
        load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


# --- special tokens --------------------------------------------------------------------------------------------------


def eos_behind(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"]["single"].append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    content["post_processor"]["special_tokens"]["</s>"] = {"id": "</s>", "ids": [2], "tokens": ["</s>"]}
    path.write_text(json.dumps(content))


REPAIRED = {
    "empty strings": (
        lambda f: edit(f, "tokenizer_config.json", bos_token="", eos_token="", pad_token="", unk_token=""),
        ["eos_token was missing: set to '</s>'", "pad_token was missing: '<pad>' is used"],
    ),
    "empty objects": (
        lambda f: edit(f, "tokenizer_config.json", eos_token={"content": ""}),
        ["eos_token was missing: set to '</s>'"],
    ),
    "null": (lambda f: edit(f, "tokenizer_config.json", eos_token=None), ["eos_token was missing: set to '</s>'"]),
    "no settings at all": (
        lambda f: (f / "tokenizer_config.json").unlink(),
        ["eos_token was missing: set to '</s>'", "pad_token was missing: '<pad>' is used"],
    ),
    "pad is eos": (lambda f: edit(f, "tokenizer_config.json", pad_token="</s>"), ["pad_token was '</s>'.*'<pad>' is"]),
    "pad missing": (lambda f: edit(f, "tokenizer_config.json", pad_token=None), ["pad_token was missing: '<pad>'"]),
    "eos behind every text": (
        eos_behind,
        ["put '</s>' behind every text: turned off"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REPAIRED)
def test_repaired_folder(trained: Path, tmp_path: Path, case: str):
    folder = tmp_path / "repaired"
    shutil.copytree(trained, folder)
    change, wanted = REPAIRED[case]
    change(folder)
    tokenizer = load_tokenizer(str(folder))
    notices = check_special_tokens(tokenizer)
    for text in wanted:
        assert any(re.search(text, notice) for notice in notices), notices
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.padding_side) == (2, 0, "right")
    assert tokenizer.encode("a")[0] == 1 and tokenizer.encode("a")[-1] != 2
    assert_settled(tokenizer, tmp_path / "again")


def assert_settled(tokenizer, folder: Path) -> None:
    """Saved and loaded, the check has nothing left to do and the ids are the same."""
    again = reload(tokenizer, folder)
    before = (len(again), again.encode("a b"), again.special_tokens_map)
    assert before == (len(tokenizer), tokenizer.encode("a b"), tokenizer.special_tokens_map)
    assert [n for n in check_special_tokens(again) if "left so" not in n] == []
    assert (len(again), again.encode("a b"), again.special_tokens_map) == before
    assert again.padding_side == "right"


DECAPODA = {
    "empty names": {"bos_token": "", "eos_token": "", "unk_token": "", "tokenizer_class": "LLaMATokenizer"},
    "ids one too low": {"bos_token": "<unk>", "eos_token": "<s>", "unk_token": "<unk>"},
    "the end for all": {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"},
}


@pytest.mark.parametrize("as_json", [False, True], ids=["tokenizer.model", "tokenizer.json"])
@pytest.mark.parametrize("case", DECAPODA)
def test_special_tokens_of_early_llama_conversions(spm: Path, tmp_path: Path, case: str, as_json: bool):
    folder = tmp_path / "llama"
    if as_json:
        load_tokenizer(str(spm)).save_pretrained(str(folder))
    else:
        shutil.copytree(spm, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(DECAPODA[case]))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "bos_token_id": 0, "eos_token_id": 1}))
    tokenizer = load_tokenizer(str(folder))
    notices = check_special_tokens(tokenizer, architecture_config={"bos_token_id": 0, "eos_token_id": 1})
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) == len(reference(spm)) + 1 and tokenizer.pad_token == "[PAD]"
    assert tokenizer.encode("plain") == [1, *reference(spm).encode("plain")]
    if case != "empty names" or as_json:  # a bare model knows its own, so that nothing is left to repair
        assert any("set to" in notice for notice in notices)
    assert "the model's config says bos_token_id=0, its tokenizer 1: 1 is used" in notices
    assert "the model's config says eos_token_id=1, its tokenizer 2: 2 is used" in notices
    assert_settled(tokenizer, tmp_path / "again")


def test_pad_is_added_when_nothing_spare_is_there(spm: Path, tmp_path: Path):
    for named in (None, "</s>"):
        tokenizer = load_tokenizer(str(spm))
        tokenizer.pad_token = named
        size = len(tokenizer)
        (notice,) = check_special_tokens(tokenizer)
        assert "'[PAD]' is used, added" in notice and ("end-of-sequence" in notice) == (named == "</s>")
        assert (tokenizer.pad_token_id, len(tokenizer)) == (size, size + 1)
        assert check_special_tokens(tokenizer) == [] and len(tokenizer) == size + 1
        assert_settled(tokenizer, tmp_path / str(named == "</s>"))


def test_empty_names_on_a_tokenizer_at_hand(trained: Path):
    tokenizer = load_tokenizer(str(trained))
    tokenizer.eos_token = tokenizer.pad_token = ""
    notices = check_special_tokens(tokenizer)
    assert {f"{name} was an empty string: counted as missing" for name in ("eos_token", "pad_token")} < set(notices)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("</s>", "<pad>")


def test_eos_that_no_vocabulary_has_is_said(trained: Path, spm: Path, tmp_path: Path):
    json_folder, model_folder = tmp_path / "json", tmp_path / "model"
    shutil.copytree(trained, json_folder)
    edit(json_folder, "tokenizer_config.json", eos_token="<|nope|>")
    tokenizer = load_tokenizer(str(json_folder))
    assert f"{json_folder}: eos_token='<|nope|>' is not in the vocabulary; it is added" in console.warnings()[-1]
    assert check_special_tokens(tokenizer) == [] and tokenizer.eos_token_id == len(tokenizer) - 1
    shutil.copytree(spm, model_folder)
    edit(model_folder, "tokenizer_config.json", eos_token="<|nope|>")
    tokenizer = load_tokenizer(str(model_folder))
    assert f"{model_folder}: eos_token='<|nope|>' is not in the vocabulary; '</s>'" in console.warnings()[-1]
    assert (tokenizer.eos_token, len(tokenizer)) == ("</s>", len(reference(spm)))


def test_sound_tokens_raise_no_warning(trained: Path, spm: Path):
    before = len(console.warnings())
    load_tokenizer(str(trained))
    load_tokenizer(str(spm))
    assert len(console.warnings()) == before


def without_eos(vocabulary: list[str], **settings):
    from tokenizers import AddedToken, Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({text: i for i, text in enumerate(vocabulary)}, unk_token=vocabulary[0]))
    backend.add_special_tokens([AddedToken(t, special=True) for t in vocabulary if t.startswith("<|")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, name_or_path="/some/folder", **settings)


def test_no_eos_to_be_found():
    with pytest.raises(UserError, match=r"/some/folder has no end-of-sequence token.*model\.tokenizer=DIR"):
        check_special_tokens(without_eos(["x", "a", "b"]))
    # An ordinary word that the config points at is no end-of-sequence token either.
    with pytest.raises(UserError, match="no end-of-sequence token"):
        check_special_tokens(without_eos(["x", "a", "b"]), architecture_config={"eos_token_id": 1})


def test_eos_is_taken_from_the_config_where_it_is_a_special_token():
    from transformers import LlamaConfig

    tokenizer = without_eos(["x", "a", "<|stop|>"])
    notices = check_special_tokens(tokenizer, architecture_config=LlamaConfig(eos_token_id=[2, 1], bos_token_id=None))
    assert tokenizer.eos_token == "<|stop|>" and tokenizer.eos_token_id == 2
    assert notices[0] == "eos_token was missing: set to '<|stop|>', as the vocabulary has it"


def test_eos_of_several_pieces_is_refused(trained: Path):
    tokenizer = load_tokenizer(str(trained))
    tokenizer._special_tokens_map["eos_token"] = "colours of"  # named, but nobody's token
    with pytest.raises(UserError, match=r"eos_token='colours of' is no single token") as caught:
        check_special_tokens(tokenizer)
    assert str(trained) in str(caught.value)


def test_config_that_agrees_or_says_nothing(trained: Path):
    from transformers import LlamaConfig

    tokenizer = load_tokenizer(str(trained))
    for config in (None, {}, {"bos_token_id": -1, "eos_token_id": None}, {"eos_token_id": [9, 2], "bos_token_id": 1}):
        assert check_special_tokens(tokenizer, architecture_config=config) == []
    (notice,) = check_special_tokens(tokenizer, architecture_config=LlamaConfig(bos_token_id=1, eos_token_id=[7, 8]))
    assert notice == "the model's config says eos_token_id=[7, 8], its tokenizer 2: 2 is used"


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that makes the hub answer with an error, or by `wait` seconds of silence; its cache is empty."""
    import httpx
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(tokenizer_files, "_HUB_SECONDS", 0.3)

    def answer(kind: type | None = None, wait: float = 0) -> None:
        def model_info(*_args, **_kwargs):
            time.sleep(wait)
            response = httpx.Response(403, request=httpx.Request("GET", "https://hub/?token=hf_secretsecret"))
            is_http = kind is not None and issubclass(kind, huggingface_hub.errors.HfHubHTTPError)
            raise kind("hf_secretsecret", response=response) if is_http else (kind or OSError)("hf_secretsecret")

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)

    return answer


@pytest.mark.parametrize(
    ("kind", "revision", "what"),
    [
        ("GatedRepoError", None, "is gated: accept its terms"),
        ("RepositoryNotFoundError", None, "neither a folder here nor a repository on the hub"),
        ("RevisionNotFoundError", "v9", "no revision 'v9' on the hub: mend model.revision"),
        ("OfflineModeIsEnabled", None, "HF_HUB_OFFLINE forbids"),
        ("HfHubHTTPError", None, "the hub cannot be reached"),
        (None, None, "the hub cannot be reached"),
    ],
)
def test_hub_faults_are_one_line_without_keys(hub, kind, revision, what: str):
    from huggingface_hub import errors

    hub(getattr(errors, kind) if kind else None)
    with pytest.raises(UserError, match=what) as caught:
        load_tokenizer("some-team/some-model", revision=revision)
    message = str(caught.value)
    assert message.startswith("some-team/some-model ") and message.endswith("model.tokenizer=DIR")
    assert "\n" not in message and "secret" not in message
    assert caught.value.__cause__ is None and caught.value.__suppress_context__, (
        "a traceback would show the library's text, key and all"
    )


def test_silent_hub_does_not_hang(hub):
    hub(wait=5)
    start = time.monotonic()
    with pytest.raises(UserError, match="the hub cannot be reached"):
        load_tokenizer("some-team/some-model")
    assert time.monotonic() - start < 3


def test_cached_repository_is_used_while_the_hub_is_out_of_reach(hub, trained: Path, tmp_path: Path):
    hub()
    commit, repository = "0" * 40, tmp_path / "models--some-team--some-model"
    shutil.copytree(trained, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert load_tokenizer("some-team/some-model").encode("a")[0] == 1


@pytest.mark.parametrize("source", ["./nope", "/no/such/folder", "a/b/c", "~/nope-nope", "with space", "x" * 5000])
def test_what_can_be_no_hub_id_never_asks_the_hub(monkeypatch: pytest.MonkeyPatch, source: str):
    monkeypatch.setattr(tokenizer_files, "_fetch", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="is not there|cannot be read"):
        load_tokenizer(source)


def test_keys_in_a_source_are_not_repeated():
    for source in ("https://user:geheim@hub/x", "/no/hf_geheimgeheim"):
        with pytest.raises(UserError) as caught:
            load_tokenizer(source)
        assert "geheim" not in str(caught.value)
    with pytest.raises(UserError, match="name is empty"):
        load_tokenizer(" ")


def test_nothing_heavy_is_imported_with_the_module():
    program = "import sys, alpaca.tokenizer; print([m for m in ('torch', 'transformers', 'tokenizers', 'sentencepiece', 'huggingface_hub') if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True
    )
    assert run.stdout.strip() == "[]"
