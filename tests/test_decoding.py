"""Many rows at once: the same answers as one at a time by transformers' own generate, whatever joins, leaves or fails."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import transformers

from alpaca import answering, decoding, infer_config
from alpaca.errors import UserError
from alpaca.inference import Loaded, Sampling, load_run
from alpaca.prompts import Prompt
from alpaca.results import RunFolder
from alpaca.streams import Busy, Streams
from alpaca.wording import Wording
from tests.tiny import TINY_ROWS

PROMPT = Prompt("p", "text", "{instruction}\n{input}\n", "{instruction}\n", stop=("\n### Instruction:",))
FAMILIES = {
    "llama": lambda n: transformers.LlamaConfig(
        vocab_size=n,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=160,
        initializer_range=0.3,
    ),
    "opt": lambda n: transformers.OPTConfig(
        vocab_size=n,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=160,
        init_std=0.3,
    ),
    "gpt2": lambda n: transformers.GPT2Config(
        vocab_size=n, n_embd=32, n_layer=2, n_head=4, n_positions=160, initializer_range=0.3
    ),
    # a window over the last tokens: no plain keys and values, so transformers' generate answers
    "mistral": lambda n: transformers.MistralConfig(
        vocab_size=n,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=160,
        sliding_window=16,
        initializer_range=0.3,
    ),
}


def random_model(family: str, tokenizer) -> Loaded:
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family](len(tokenizer)))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    # some rows end early, so that places become free
    return Loaded(model.eval(), tokenizer, PROMPT, "fp32")


def questions(count: int) -> list[dict[str, str]]:
    return [{"instruction": "Name colours. " * (1 + i % 5) + str(i), "input": "x" * (i % 7)} for i in range(count)]


def one_at_a_time(loaded: Loaded, rows: list[dict[str, str]], new: int, ends: set[int]) -> list[list[int]]:
    """The plain way: transformers' generate, a row at a time, without padding."""
    result = []
    for row in rows:
        ids = torch.tensor([loaded.question(row["instruction"], row["input"])])
        output = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=sorted(ends),
            pad_token_id=0,
        )
        result.append(output[0, ids.shape[1] :].tolist())
    return result


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_greedy_tokens_are_those_of_generate_one_at_a_time(family: str, tiny_tokenizer) -> None:
    loaded = random_model(family, tiny_tokenizer)
    rows = questions(24)
    ends = {2, *range(10, 20)}  # enough tokens end a row that places become free all the time
    expected = one_at_a_time(loaded, rows, 30, ends)
    assert len({len(e) for e in expected}) > 5
    for capacity in (1, 5, 24):
        decoder = decoding.Decoder(loaded.model, ends, 0, capacity)
        asked = [decoding.Row(loaded.question(r["instruction"], r["input"]), Sampling(), 30) for r in rows]
        decoder.add(asked)
        while decoder.busy:
            decoder.step()
        assert [r.generated for r in asked] == expected


def test_a_choice_within_rounding_is_made_alone(tiny_tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = random_model("llama", tiny_tokenizer)
    rows = questions(6)
    expected = loaded.answer(rows, Sampling(max_new_tokens=20))
    monkeypatch.setattr(decoding, "ROUNDING", 1e9)  # now every choice beside another row is
    beside: list[int] = []
    choose = decoding.Decoder._choose
    monkeypatch.setattr(decoding.Decoder, "_choose", lambda self, s, r: (beside.append(len(r)), choose(self, s, r))[1])
    assert loaded.answer(rows, Sampling(max_new_tokens=20)) == expected
    assert beside[0] == 6 and set(beside[1:]) == {1}


@pytest.mark.parametrize("sampling", [Sampling(max_new_tokens=12), Sampling(max_new_tokens=12, num_beams=2)])
def test_other_kinds_of_state_and_beams_go_through_generate(sampling: Sampling, tiny_tokenizer) -> None:
    loaded = random_model("mistral", tiny_tokenizer)
    with pytest.raises(decoding.Unsupported):
        loaded.decoder(2)
    rows = questions(5)
    assert loaded.answer(rows, sampling) == [loaded.answer([r], sampling)[0] for r in rows]
    stream = Streams(loaded).ask(loaded.question(rows[0]["instruction"]), sampling)
    assert list(stream) == [stream.answer.text]


def test_drawn_tokens_depend_on_the_seed_and_the_row_alone(tiny_tokenizer) -> None:
    loaded = random_model("llama", tiny_tokenizer)
    sampling = Sampling(temperature=0.9, top_p=0.9, top_k=50, max_new_tokens=12, repetition_penalty=1.2)
    rows = questions(9)
    first = loaded.answer(rows, sampling)
    assert [a for _, a in sorted(loaded.answers(rows, sampling, 2), key=lambda x: x[0])] == first
    assert loaded.answer(rows, dataclasses.replace(sampling, seed=7)) != first


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_memory_that_runs_out_halves_the_batch(family: str, tiny_tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = random_model(family, tiny_tokenizer)
    rows, sampling = questions(11), Sampling(max_new_tokens=16)
    expected = loaded.answer(rows, sampling)
    forward, most, sizes = type(loaded.model).forward, 3, []
    width = max(len(loaded.question(r["instruction"], r["input"])) for r in rows) + 4

    def limited(self, input_ids=None, *args, **kwargs):
        sizes.append(input_ids.shape[0])
        # a batch that is too large runs out while it grows, not at once
        if input_ids.shape[0] > most and (kwargs["attention_mask"].shape[1] > width or most == 0):
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(loaded.model), "forward", limited)
    assert loaded.answer(rows, sampling) == expected
    assert max(sizes) == 11 and sizes[-1] <= 3
    most = 0
    with pytest.raises(UserError, match="memory ran out with a single row of"):
        loaded.answer(rows[:2], sampling)


def test_a_stop_text_ends_a_row_and_nothing_of_it_is_shown(tiny_run: Path) -> None:
    loaded = load_run(RunFolder(tiny_run))
    for stop, expected in (("11", "1 2 3 4 5 6 7 8 9 10"), (" 12 1", "1 2 3 4 5 6 7 8 9 10 11")):
        answer = loaded.answer([TINY_ROWS[-1]], Sampling(stop=(stop,)))[0]
        assert (answer.text, answer.stopped) == (expected, "stop")
        assert answer.tokens < 40
        streamed = list(Streams(loaded).ask(loaded.question("Count to sixty."), Sampling(stop=(stop,))))
        assert streamed[-1] == expected and len(streamed) > 3
        assert all(expected.startswith(text) for text in streamed)


def test_streams_grow_are_cancelled_and_survive_a_failure(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_run(RunFolder(tiny_run))
    streams = Streams(loaded, capacity=2, limit=3)
    together = [streams.ask(loaded.question(r["instruction"], r["input"]), Sampling()) for r in TINY_ROWS[11:]]
    with pytest.raises(Busy):
        streams.ask(together[0].row.prompt, Sampling())
    for row, stream in zip(TINY_ROWS[11:], together, strict=True):
        shown = list(stream)
        assert shown[-1] == stream.answer.text == row["output"]
        assert all(b.startswith(a) for a, b in zip(shown, shown[1:], strict=False))

    stream = streams.ask(loaded.question("Count to sixty."), Sampling())
    for text in stream:
        if "5" in text:
            stream.cancel()
    assert stream.answer.stopped == "cancelled" and TINY_ROWS[-1]["output"].startswith(stream.answer.text)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "pick", lambda *a: (_ for _ in ()).throw(RuntimeError("broken")))
        with pytest.raises(RuntimeError, match="broken"):
            list(streams.ask(loaded.question("Say word 1."), Sampling()))
    assert list(streams.ask(loaded.question("Say word 1."), Sampling()))[-1] == TINY_ROWS[1]["output"]


def test_a_lora_is_merged_where_that_is_exact_and_stays_where_it_is_not(tiny_lora_run: Path) -> None:
    from alpaca import inference

    beside = load_run(RunFolder(tiny_lora_run))
    merged = load_run(RunFolder(tiny_lora_run), merge=True)
    assert hasattr(beside.model, "peft_config") and not hasattr(merged.model, "peft_config")
    ids = torch.tensor([beside.question("Count to sixty.")])
    torch.testing.assert_close(merged.model(ids).logits, beside.model(ids).logits, rtol=0, atol=1e-4)
    assert merged.answer(TINY_ROWS, Sampling()) == beside.answer(TINY_ROWS, Sampling())
    rounded = inference.merged(beside.model.to(torch.bfloat16))
    assert hasattr(rounded, "peft_config")


@pytest.mark.parametrize("quantize", ["int8", "nf4"])
def test_weights_are_loaded_smaller(quantize: str, tiny_run: Path, tiny_lora_run: Path) -> None:
    full = load_run(RunFolder(tiny_run), quantize=quantize)
    names = {type(p).__name__ for p in full.model.parameters()}
    assert {"int8": "Int8Params", "nf4": "Params4bit"}[quantize] in names
    answers = full.answer(TINY_ROWS[:4], Sampling())
    assert sum(a.text == r["output"] for a, r in zip(answers, TINY_ROWS, strict=False)) >= 3
    adapter = load_run(RunFolder(tiny_lora_run), quantize=quantize, merge=True)
    assert hasattr(adapter.model, "peft_config")
    assert adapter.answer(TINY_ROWS[1:2], Sampling(max_new_tokens=12))[0].text


def batch_config(run: Path, rows: Path, output: Path, **others: object) -> infer_config.InferConfig:
    return infer_config.load(
        {"run": str(run), "batch": {"input": str(rows), "output": str(output), "size": 3}, "max_new_tokens": 120}
        | others
    )


def test_a_batch_that_was_stopped_goes_on_in_order(
    tiny_run: Path, tiny_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answers.jsonl"
    answer_ids, done = Loaded.answer_ids, []

    def stopping(self, questions, sampling, size):
        for i, answer in answer_ids(self, questions, sampling, size):
            done.append(i)
            if len(done) == 7:
                raise KeyboardInterrupt
            yield i, answer

    monkeypatch.setattr(Loaded, "answer_ids", stopping)
    with pytest.raises(KeyboardInterrupt):
        answering.run(batch_config(tiny_run, tiny_rows, output))
    assert not output.exists()
    answering.run(batch_config(tiny_run, tiny_rows, output))
    assert len(done) == 7 + 10 and len(set(done)) == 16  # six were kept
    answered = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [a["answer"] for a in answered] == [r["output"] for r in TINY_ROWS]
    assert [a["instruction"] for a in answered] == [r["instruction"] for r in TINY_ROWS]


def test_a_question_that_is_too_long_is_named_before_any_is_answered(tiny_tokenizer) -> None:
    loaded = random_model("llama", tiny_tokenizer)
    rows = [*questions(3), {"instruction": "long " * 200}]
    with pytest.raises(UserError, match=r"row 4: the question has \d+ tokens with its prompt, and the model takes 160"):
        next(loaded.answers(rows, Sampling(), 2))


def test_vllm_says_what_to_do_where_it_is_not_installed_or_broken(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    asked = infer_config.load({"run": str(tiny_run), "instruction": "hi", "engine": "vllm"})
    with pytest.raises(UserError, match="vLLM is not installed here"):
        answering.run(asked)
    (tmp_path / "vllm.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"does not import \(libcudart.so.12: .*\): use engine=transformers"):
        answering.run(asked)


def test_half_a_character_and_the_beginning_of_a_stop_text_are_held_back(tiny_tokenizer) -> None:
    ids = tiny_tokenizer("Rot, blå\n### Instruction:\nmore", add_special_tokens=False)["input_ids"]
    wording = Wording(tiny_tokenizer, PROMPT, [1], ())
    shown = [wording.so_far(ids[:n]) for n in range(1, len(ids) + 1)]
    assert all("\ufffd" not in text and "Rot, blå".startswith(text) for text in shown)
    assert shown[-1] == "Rot, blå" and "Rot, bl" in shown
    heard = [wording.hears(ids[:n]) for n in range(1, len(ids) + 1)]
    assert heard.index(True) == max(i for i, t in enumerate(shown) if ":" in tiny_tokenizer.decode([ids[i]]))
    assert wording.whole(ids) == ("Rot, blå", True)
