"""Token ids and labels against a plain reimplementation, the length limits, the cache under bad luck."""

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alpaca import cache, console, data, rows, schema, spelling
from alpaca.config import DataConfig, PromptConfig, TrainConfig
from alpaca.encoding import Encoder
from alpaca.errors import UserError
from alpaca.prompts import Prompt

CONF = Path(__file__).parents[1] / "conf" / "prompt"
ROWS = [{"instruction": f"Say {i}.", "input": "twice" * (i % 2), "output": f"{i} " * (i + 1)} for i in range(12)]


def prompt_of(name="alpaca") -> Prompt:
    config = schema.build(PromptConfig, yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")), "", [])
    return Prompt.from_config(config)


SHORT = Prompt("short", with_input="{instruction}|{input}:", without_input="{instruction}:")


def config(tmp_path, path=None, data_settings=None, **options) -> TrainConfig:
    if path is None:
        path = tmp_path / "rows.json"
        if not path.exists():
            path.write_text(json.dumps(ROWS))
    source = DataConfig(name="custom", path=str(path), cache=str(tmp_path / "cache"), **(data_settings or {}))
    parts = {"model": None, "method": None, "strategy": None, "prompt": None, "tracker": None, "batch": None}
    return TrainConfig(data=source, **parts, **options)  # what data.prepare does not look at is left out


def original(row, prompt, tokenizer, max_length, loss_on="response"):
    """One row as Stanford's train.py makes it: the prompt tokenised alone for its length, then the whole with EOS."""
    source = prompt.render(row["instruction"], row["input"])
    options = {"max_length": max_length, "truncation": True}
    ids = tokenizer(source + row["output"] + tokenizer.eos_token, **options)["input_ids"]
    source_length = len(tokenizer(source, **options)["input_ids"])
    labels = list(ids)
    if loss_on == "response":
        labels[:source_length] = [-100] * min(source_length, len(ids))
    return ids, labels


def real_tokenizer(shared, name):
    from alpaca.tokenizer import load_tokenizer

    return load_tokenizer(str(shared / "tokenizers" / name))


@pytest.mark.parametrize("name", ["llama", "opt"])
@pytest.mark.parametrize(("max_length", "prompt_name"), [(512, "alpaca"), (100, "qlora")])
def test_ids_and_labels_equal_the_originals_on_real_rows(name, max_length, prompt_name, shared, tmp_path):
    tokenizer, prompt = real_tokenizer(shared, name), prompt_of(prompt_name)
    run = config(tmp_path, shared / "data" / "alpaca_data.json", {"limit": 512}, max_length=max_length)
    prepared = data.prepare(run, tokenizer, prompt)
    source = rows.read(run.data).rows
    truncated = 0
    for example, row in zip(prepared.train, source, strict=True):
        ids, labels = original(row, prompt, tokenizer, max_length)
        assert example["input_ids"].tolist() == ids
        assert example["labels"].tolist() == labels
        truncated += ids[-1] != tokenizer.eos_token_id
    assert prepared.report.truncated == truncated
    assert prepared.report.tokens == int(prepared.train.lengths.sum())


def test_bos_stands_in_front_once(shared, tmp_path):
    for name, bos in (("llama", 1), ("opt", 2)):
        run = config(tmp_path, shared / "data" / "alpaca_data.json", {"limit": 3})
        ids = data.prepare(run, real_tokenizer(shared, name), prompt_of()).train[0]["input_ids"].tolist()
        assert ids[0] == bos
        assert ids[1:].count(bos) == (1 if name == "opt" else 0)  # of OPT bos is eos, which ends the row


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(
        st.tuples(
            st.text(st.sampled_from("ab: \n'\"{}<s/>é中🙂1.,\t"), max_size=12) | st.text(max_size=8),
            st.text(st.sampled_from("ab: \n'\"{}<s/>é中🙂1.,\t"), max_size=12) | st.text(max_size=8),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_prompt_lengths_are_those_of_the_prompt_alone(pairs, tiny_tokenizer):
    """Whatever the texts are, special tokens written out included."""
    encoder = Encoder(tiny_tokenizer)
    assert encoder._pieces is not None  # the short way is tried
    for mark in (":", "", "\n\n"):
        whole, lengths = encoder.pairs([s + mark for s, _ in pairs], [t for _, t in pairs])
        for (source, target), ids, length in zip(pairs, whole.tolist(), lengths, strict=True):
            assert ids == tiny_tokenizer(f"{source}{mark}{target}")["input_ids"]
            assert length == len(tiny_tokenizer(source + mark)["input_ids"])


def qwen_kind():
    """A tokenizer built as Qwen's are: NFC, its splitting pattern, byte-level merges."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(spelling.WORDS[0]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator(["a: b:\n\n", ":a ,\n.\n 1", "ab abc:a\n"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", clean_up_tokenization_spaces=False)


def older_llama(tokenizer):
    """LLaMA's tokenizer as older files describe it: the space in front is a step of the normaliser."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    space = "\u2581"
    steps = [{"type": "Prepend", "prepend": space}]
    steps += [{"type": "Replace", "pattern": {"String": " "}, "content": space}]
    parts |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": steps}}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts)), eos_token="</s>")


@pytest.fixture(scope="module", params=["llama", "opt", "llama_sentencepiece_only", "older llama", "qwen kind"])
def real_encoder(request, shared):
    if request.param == "qwen kind":
        tokenizer = qwen_kind()
    elif request.param == "older llama":
        tokenizer = older_llama(real_tokenizer(shared, "llama"))
    else:
        tokenizer = real_tokenizer(shared, request.param)
    encoder = Encoder(tokenizer)
    assert encoder._pieces is not None  # the short way is tried
    return tokenizer, encoder


ODD = st.text(
    st.sampled_from("ab:   \n'\"▁<s/>é中🙂1.,\t\r\x1c\xa0\u0301\u0338\u200b文，。приёですました"), max_size=20
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(source=ODD, target=ODD)
@hypothesis.example(source="a </s> b  c", target=" </s>a")
@hypothesis.example(source="x \u0338y", target=":\u0301")
def test_so_they_are_for_the_real_tokenizers(source, target, real_encoder):
    tokenizer, encoder = real_encoder
    whole, lengths = encoder.pairs([source + ":"], [target])
    assert whole.tolist() == [tokenizer(f"{source}:{target}")["input_ids"]]
    assert lengths.tolist() == [len(tokenizer(source + ":")["input_ids"])]


def test_texts_without_spaces_are_cut_between_characters_that_no_token_joins(shared):
    tokenizer = real_tokenizer(shared, "llama")
    texts = ["患者需要进行手术治疗，请说明术前准备。", "治疗前，患者需要准备：привет, ですました。"]
    encoder = Encoder(tokenizer)
    assert encoder.ids(texts).tolist() == [tokenizer(text)["input_ids"] for text in texts]
    han = [piece for piece in encoder._pieces._numbers if "\u4e00" <= piece[-1] <= "\u9fff"]
    assert len(han) > 15 and max(map(len, han)) <= 2  # the first has the space in front
    assert any("прив" in piece for piece in encoder._pieces._numbers)  # which tokens do join


def test_the_short_way_is_taken_where_it_is_certain(tiny_tokenizer):
    encoder = Encoder(tiny_tokenizer)
    sources, targets = ["Name three:", "Name three:"], ["colours", '"Hi']
    whole = encoder.ids([s + t for s, t in zip(sources, targets, strict=True)])
    assert encoder._boundaries(sources, targets, whole)[0] > 0
    # alone the two newlines are one token; before a letter they are two, with a boundary where the source ends
    assert encoder._boundaries(["Name\n\n"], ["x"], encoder.ids(["Name\n\nx"])).tolist() == [-1]


@pytest.mark.parametrize(
    ("token", "source", "target"),
    [
        ({"content": "<x>", "single_word": True}, "a <x>", "b"),  # found in the prompt, not before a letter
        ({"content": "q\u0323\u0301", "normalized": True}, "a q\u0301\u0323 1:", "b"),  # found in its other spelling
        (None, "\u0958 1.,:", "e\u0301e\u0301e\u0301"),  # NFC makes the prompt longer, the answer as much shorter
    ],
)
def test_where_what_stands_beside_a_text_counts_the_old_way_is_taken(token, source, target):
    from tokenizers import AddedToken

    tokenizer = qwen_kind()
    if token is not None:
        tokenizer.add_tokens(AddedToken(**({"normalized": False} | token)))
    whole, lengths = Encoder(tokenizer).pairs([source], [target])
    assert whole.tolist() == [tokenizer(source + target)["input_ids"]]
    assert lengths.tolist() == [len(tokenizer(source)["input_ids"])]


def test_loss_on_all_masks_nothing(tmp_path, tiny_tokenizer):
    prepared = data.prepare(config(tmp_path, loss_on="all"), tiny_tokenizer, SHORT)
    assert all(e["labels"].tolist() == e["input_ids"].tolist() for e in prepared.train)


def test_source_and_target_limits_cut_apart(tmp_path, tiny_tokenizer):
    run = config(tmp_path, source_max_length=5, target_max_length=4)
    prepared = data.prepare(run, tiny_tokenizer, SHORT)
    for example, row in zip(prepared.train, ROWS, strict=True):
        source = tiny_tokenizer(SHORT.render(row["instruction"], row["input"]))["input_ids"][:5]
        target = [*tiny_tokenizer(row["output"], add_special_tokens=False)["input_ids"], 2][:4]
        assert example["input_ids"].tolist() == source + target
        assert example["labels"].tolist() == [-100] * len(source) + target
    assert prepared.report.truncated == sum(
        len(tiny_tokenizer(SHORT.render(r["instruction"], r["input"]))["input_ids"]) > 5
        or len(tiny_tokenizer(r["output"], add_special_tokens=False)["input_ids"]) > 3
        for r in ROWS
    )


def test_over_length(tmp_path, tiny_tokenizer):
    full = data.prepare(config(tmp_path), tiny_tokenizer, SHORT).train.lengths
    limit = int(np.median(full))
    long = [i for i, length in enumerate(full) if length > limit]
    cut = data.prepare(config(tmp_path, max_length=limit), tiny_tokenizer, SHORT)
    assert cut.report.truncated == len(long) > 0
    assert cut.train.lengths.max() == limit
    assert [e["row"] for e in cut.train if e["input_ids"][-1] != 2] == long
    dropped = data.prepare(config(tmp_path, max_length=limit, over_length="drop"), tiny_tokenizer, SHORT)
    assert dropped.report.dropped == len(long)
    assert dropped.train.rows.tolist() == [i for i in range(12) if i not in long]
    with pytest.raises(UserError) as caught:
        data.prepare(config(tmp_path, max_length=limit, over_length="error"), tiny_tokenizer, SHORT)
    assert f"{len(long)} rows are longer than max_length={limit}" in str(caught.value)
    assert f"row {long[0]} ({full[long[0]]} tokens)" in str(caught.value)


def test_rows_without_a_token_to_learn_from_are_kept_and_counted(tmp_path, tiny_tokenizer):
    lengths = data.prepare(config(tmp_path), tiny_tokenizer, SHORT).train.prompt_lengths
    limit = int(sorted(lengths)[5])
    report = data.prepare(config(tmp_path, max_length=limit), tiny_tokenizer, SHORT).report
    assert (report.rows, report.unlearnable) == (12, int((lengths >= limit).sum()))
    with pytest.raises(UserError, match="no row has a token to learn from.*max_length=1"):
        data.prepare(config(tmp_path, max_length=1), tiny_tokenizer, SHORT)
    with pytest.raises(UserError, match="no row is left.*over length"):
        data.prepare(config(tmp_path, max_length=1, over_length="drop"), tiny_tokenizer, SHORT)


def test_eos_written_in_a_row_is_counted(tmp_path, tiny_tokenizer):
    path = tmp_path / "eos.json"
    path.write_text(json.dumps([*ROWS, {"instruction": "a", "output": "x </s> y"}]))
    before = len(console.warnings())
    report = data.prepare(config(tmp_path, path), tiny_tokenizer, SHORT).report
    assert report.eos_inside == 1
    assert any("EOS token as text" in w for w in console.warnings()[before:])


def test_a_tokenizer_without_eos_is_refused(tmp_path, tiny_tokenizer):
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        data.prepare(config(tmp_path), tokenizer, SHORT)
    assert not any((tmp_path / "cache").iterdir())


def test_eos_of_the_tokenizers_own_is_not_doubled(tmp_path, tiny_tokenizer):
    import copy

    from tokenizers import processors

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    plain = data.prepare(config(tmp_path), tiny_tokenizer, SHORT).train
    ending = data.prepare(config(tmp_path), tokenizer, SHORT).train
    assert [e["labels"].tolist() for e in plain] == [e["labels"].tolist() for e in ending]


def test_a_chat_template_writes_its_own_special_tokens(tmp_path, tiny_tokenizer):
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    example = data.prepare(config(tmp_path), tokenizer, Prompt("chat", kind="chat")).train[0]
    assert tokenizer.decode(example["input_ids"]) == "<s>user: Say 0.</s>assistant: 0 </s>"
    assert example["input_ids"].tolist().count(1) == 1
    assert tokenizer.decode([i for i in example["labels"] if i != -100]) == "0 </s>"


def test_a_chat_template_that_ends_no_turn_gets_eos(tmp_path, tiny_tokenizer):
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    example = data.prepare(config(tmp_path), tokenizer, Prompt("chat", kind="chat")).train[0]
    assert example["labels"][-1] == 2


def python_tokenizer(folder):
    """A tokenizer of the slow kind: one token a character."""
    from transformers import PreTrainedTokenizer

    class Characters(PreTrainedTokenizer):
        def __init__(self, **options):
            self.table = {c: i for i, c in enumerate(["<pad>", "<s>", "</s>", *map(chr, range(32, 127))])}
            super().__init__(bos_token="<s>", eos_token="</s>", pad_token="<pad>", **options)

        @property
        def vocab_size(self):
            return len(self.table)

        def get_vocab(self):
            return dict(self.table)

        def _tokenize(self, text, **_):
            return list(text)

        def _convert_token_to_id(self, token):
            return self.table.get(token, 0)

        def _convert_id_to_token(self, index):
            return list(self.table)[index]

        def save_vocabulary(self, folder, filename_prefix=None):
            path = Path(folder) / "table.json"
            path.write_text(json.dumps(self.table))
            return (str(path),)

    return Characters()


def test_slow_tokenizers_work(tmp_path):
    tokenizer = python_tokenizer(tmp_path)
    assert not tokenizer.is_fast
    prepared = data.prepare(config(tmp_path), tokenizer, SHORT)
    for example, row in zip(prepared.train, ROWS, strict=True):
        source = tokenizer(SHORT.render(row["instruction"], row["input"]))["input_ids"]
        ids = tokenizer(SHORT.render(row["instruction"], row["input"]) + row["output"])["input_ids"] + [2]
        assert example["input_ids"].tolist() == ids
        assert example["labels"].tolist() == [-100] * len(source) + ids[len(source) :]
    assert data.prepare(config(tmp_path), tokenizer, SHORT).report.from_cache


def test_batches(tmp_path, tiny_tokenizer):
    import torch

    dataset = data.prepare(config(tmp_path), tiny_tokenizer, SHORT).train
    batch = data.Collator(0)([dataset[3], dataset[0]])
    width = int(dataset.lengths[[3, 0]].max())
    assert batch["rows"] == [3, 0]
    for key in ("input_ids", "attention_mask", "labels"):
        assert batch[key].dtype == torch.long
        assert batch[key].shape == (2, width)
    short = int(dataset.lengths[0])
    assert batch["input_ids"][1, short:].tolist() == [0] * (width - short)
    assert batch["labels"][1, short:].tolist() == [-100] * (width - short)
    assert batch["attention_mask"].sum(1).tolist() == dataset.lengths[[3, 0]].tolist()
    assert batch["input_ids"][1, :short].tolist() == dataset[0]["input_ids"].tolist()


def test_many_chunks_and_workers_give_the_same_examples(tmp_path, tiny_tokenizer, monkeypatch):
    one = data.prepare(config(tmp_path), tiny_tokenizer, SHORT).train
    monkeypatch.setattr("alpaca.examples.CHUNK", 5)
    other = config(tmp_path)
    other.data.cache = str(tmp_path / "other")
    many = data.prepare(other, tiny_tokenizer, SHORT).train
    copied = pickle.loads(pickle.dumps(many))
    for i in range(12):
        assert one[i]["input_ids"].tolist() == many[i]["input_ids"].tolist() == copied[i]["input_ids"].tolist()
        assert one[i]["labels"].tolist() == many[i]["labels"].tolist()
    assert len(pickle.dumps(many)) < 2000  # the file is mapped again, not sent


def test_validation_rows_are_split_from_the_same_entry(tmp_path, tiny_tokenizer):
    whole = data.prepare(config(tmp_path), tiny_tokenizer, SHORT)
    parts = data.prepare(config(tmp_path, data_settings={"validation": 3}), tiny_tokenizer, SHORT)
    order = np.random.default_rng(42).permutation(12).tolist()
    assert whole.validation is None
    assert parts.report.from_cache
    assert parts.validation.rows.tolist() == order[:3]
    assert parts.train.rows.tolist() == order[3:]
    assert parts.train[0]["input_ids"].tolist() == whole.train[order[3]]["input_ids"].tolist()


def test_rows_that_were_read_already_are_taken(tmp_path, tiny_tokenizer):
    given_rows = rows.Rows([{"instruction": "x", "input": "", "output": "y"}], [7])
    prepared = data.prepare(config(tmp_path), tiny_tokenizer, SHORT, given_rows)
    assert prepared.train.rows.tolist() == [7]
    assert prepared.report.rows == 1


def entries(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache").iterdir())


def test_the_same_again_comes_from_the_cache_with_its_notices(tmp_path, tiny_tokenizer, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"instruction": "a", "output": "b"}\n3\n')
    run = config(tmp_path, path, {"on_bad_row": "skip"})
    first = data.prepare(run, tiny_tokenizer, SHORT)
    assert "1 bad rows skipped" in capsys.readouterr().err
    second = data.prepare(run, tiny_tokenizer, SHORT)
    assert (first.report.from_cache, second.report.from_cache) == (False, True)
    assert "1 bad rows skipped" in capsys.readouterr().err
    assert dataclasses.replace(second.report, from_cache=False) == first.report
    assert len(entries(tmp_path)) == 1


def test_padding_a_batch_elsewhere_makes_no_new_entry(tmp_path, tiny_tokenizer):
    data.prepare(config(tmp_path), tiny_tokenizer, SHORT)
    tiny_tokenizer(["a", "bb"], padding=True, truncation=True, max_length=3)
    assert data.prepare(config(tmp_path), tiny_tokenizer, SHORT).report.from_cache


CHANGES = {
    "max_length": lambda c, t, p: (dataclasses.replace(c, max_length=100), t, p),
    "loss_on": lambda c, t, p: (dataclasses.replace(c, loss_on="all"), t, p),
    "over_length": lambda c, t, p: (dataclasses.replace(c, over_length="drop"), t, p),
    "two limits": lambda c, t, p: (dataclasses.replace(c, source_max_length=90, target_max_length=90), t, p),
    "prompt": lambda c, t, p: (c, t, dataclasses.replace(p, without_input=p.without_input + " ")),
    "limit": lambda c, t, p: (dataclasses.replace(c, data=dataclasses.replace(c.data, limit=5)), t, p),
    "shuffle": lambda c, t, p: (dataclasses.replace(c, data=dataclasses.replace(c.data, shuffle_seed=5)), t, p),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_every_setting_that_counts_makes_a_new_entry(change, tmp_path, tiny_tokenizer):
    run = config(tmp_path)
    data.prepare(run, tiny_tokenizer, SHORT)
    assert not data.prepare(*CHANGES[change](run, tiny_tokenizer, SHORT)).report.from_cache
    assert len(entries(tmp_path)) == 2


def test_a_changed_byte_makes_a_new_entry(tmp_path, tiny_tokenizer):
    run = config(tmp_path)
    data.prepare(run, tiny_tokenizer, SHORT)
    path = tmp_path / "rows.json"
    path.write_bytes(path.read_bytes().replace(b"Say 7", b"Say 8", 1))
    changed = data.prepare(run, tiny_tokenizer, SHORT)
    assert not changed.report.from_cache
    assert "Say 8." in tiny_tokenizer.decode(changed.train[7]["input_ids"])


def test_another_tokenizer_makes_a_new_entry(tmp_path, tiny_tokenizer):
    import copy

    data.prepare(config(tmp_path), tiny_tokenizer, SHORT)
    other = copy.deepcopy(tiny_tokenizer)
    other.add_tokens(["Say"])
    assert not data.prepare(config(tmp_path), other, SHORT).report.from_cache
    third = copy.deepcopy(tiny_tokenizer)
    third.eos_token = "<pad>"
    assert not data.prepare(config(tmp_path), third, SHORT).report.from_cache


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, tiny_tokenizer, monkeypatch):
    run = config(tmp_path)
    read = rows.read

    def read_and_change(source):
        found = read(source)
        Path(source.path).write_text("[]")
        return found

    monkeypatch.setattr(rows, "read", read_and_change)
    with pytest.raises(UserError, match="changed while it was read"):
        data.prepare(run, tiny_tokenizer, SHORT)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "no report", "no tokens", "no object", "longer"])
def test_a_damaged_entry_is_written_again(damage, tmp_path, tiny_tokenizer):
    run = config(tmp_path)
    good = [e["input_ids"].tolist() for e in data.prepare(run, tiny_tokenizer, SHORT).train]
    (folder,) = (tmp_path / "cache").iterdir()
    tokens, report = folder / data.TOKENS, folder / data.REPORT
    if damage == "cut":
        tokens.write_bytes(tokens.read_bytes()[:-40])
    elif damage == "longer":
        tokens.write_bytes(tokens.read_bytes() + b"\0")
    elif damage == "no report":
        report.unlink()
    elif damage == "no object":
        report.write_text("[]")
    else:
        tokens.unlink()
    before = len(console.warnings())
    again = data.prepare(run, tiny_tokenizer, SHORT)
    assert not again.report.from_cache
    assert [e["input_ids"].tolist() for e in again.train] == good
    assert "is damaged: written again" in console.warnings()[before]


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ALPACA_CACHE", raising=False)
    assert cache.root(None) == tmp_path / ".cache" / "alpaca"
    monkeypatch.setenv("ALPACA_CACHE", "/a")
    assert cache.root(None) == Path("/a")
    assert cache.root("/b") == Path("/b")


def test_a_cache_that_cannot_be_written_names_the_way_out(tmp_path, tiny_tokenizer):
    (tmp_path / "file").write_text("x")
    run = config(tmp_path)
    run.data.cache = str(tmp_path / "file" / "cache")
    with pytest.raises(UserError, match="file/cache cannot be written.*data.cache=DIR"):
        data.prepare(run, tiny_tokenizer, SHORT)


def start(tmp_path, body):
    """A process that runs `body` with `folder`, `whole` and `cache` at hand."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom alpaca import cache\n"
        "folder = Path(sys.argv[1])\ndef whole(p): return (p / 'x').is_file()\n" + body
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


WRITER = """
def write(p):
    with open(folder / "log", "a") as log: log.write("w")
    (p / "x").write_text("half"); (folder / "started").touch(); time.sleep(SECONDS); (p / "x").write_text("whole")
place, cached = cache.entry(folder / "cache", "key", whole, write)
print((place / "x").read_text(), cached)
"""


def test_two_processes_write_an_entry_once(tmp_path):
    running = [start(tmp_path, WRITER.replace("SECONDS", "1")) for _ in range(3)]
    results = [p.communicate(timeout=60) for p in running]
    assert sorted(out.strip() for out, _ in results) == ["whole False", "whole True", "whole True"], results
    assert (tmp_path / "log").read_text() == "w"
    assert any("waiting for another process" in err for _, err in results)
    assert entries(tmp_path) == ["key"]


def test_a_killed_writer_leaves_no_entry_and_no_lock(tmp_path):
    killed = start(tmp_path, WRITER.replace("SECONDS", "600"))
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    waiter = start(tmp_path, WRITER.replace("SECONDS", "0"))
    time.sleep(0.3)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    out, err = waiter.communicate(timeout=60)
    assert out.strip() == "whole False", err
    assert entries(tmp_path) == ["key"]


def test_what_a_dead_writer_of_another_key_left_is_removed(tmp_path):
    import socket

    host, folder = socket.gethostname(), tmp_path / "cache"
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f"old.tmp-{host}-{dead.pid}", f"live.tmp-{host}-{os.getpid()}", f"far.tmp-other-{dead.pid}"):
        (folder / name).mkdir(parents=True)
    cache.entry(folder, "key", lambda _: True, lambda place: None)
    assert entries(tmp_path) == sorted(["key", f"live.tmp-{host}-{os.getpid()}", f"far.tmp-other-{dead.pid}"])


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    body = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
def write(p): (p / "x").write_bytes(b"0" * 100_000)
try: cache.entry(folder / "cache", "key", whole, write)
except ValueError as error: print(type(error).__name__, error)
"""
    out, err = start(tmp_path, body).communicate(timeout=60)
    assert out.startswith(f"UserError the cache folder {tmp_path / 'cache'} cannot be written (File too large)"), err
    assert "data.cache=DIR" in out
    assert entries(tmp_path) == []


def test_a_full_disk_under_prepare_leaves_nothing_behind(tmp_path, tiny_tokenizer, monkeypatch):
    import pyarrow as pa

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa, "record_batch", full)
    with pytest.raises(UserError, match="No space left on device.*data.cache=DIR"):
        data.prepare(config(tmp_path), tiny_tokenizer, SHORT)
    assert entries(tmp_path) == []


def test_two_processes_prepare_the_same_data(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS * 300))
    code = (
        "import sys; from transformers import AutoTokenizer; from tests.test_data import *\n"
        "folder = Path(sys.argv[1]); tokenizer = AutoTokenizer.from_pretrained(folder / 'tokenizer')\n"
        "p = data.prepare(config(folder), tokenizer, SHORT); print(p.report.from_cache, int(p.train.lengths.sum()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).parents[1]
    running = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = sorted(p.communicate(timeout=100)[0].split() for p in running)
    assert [r[0] for r in results] == ["False", "True"]
    assert results[0][1] == results[1][1]
    assert len(entries(tmp_path)) == 1


@pytest.mark.slow
def test_the_real_set_is_tokenised_once_in_little_memory(shared, tmp_path):
    code = (
        "import re, sys; from tests.test_data import *\n"
        "folder, shared = Path(sys.argv[1]), Path(sys.argv[2]); tokenizer = real_tokenizer(shared, 'llama')\n"
        "run = config(folder, shared / 'data' / 'alpaca_data.json'); prompt = prompt_of()\n"
        "for _ in range(2):\n"
        "    p = data.prepare(run, tokenizer, prompt); print(p.report.from_cache)\n"
        # not getrusage: its peak is that of the process which started this one, where that was larger
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]\n"
        "print(p.report.tokens, p.report.truncated, int(peak) / 1e6)"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, str(tmp_path), str(shared)]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=True).stdout.split()
    assert out[:4] == ["False", "True", "6600133", "97"]
    assert float(out[4]) < 1  # gigabytes
