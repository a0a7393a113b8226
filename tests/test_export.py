"""Exports, each loaded again as its users would: by transformers, PEFT and llama.cpp."""

import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpaca import export, export_check, weights
from alpaca.errors import UserError
from alpaca.export_config import load
from alpaca.launch import launch
from tests.helpers import compose, run_python, write_tiny_model


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of an export without the seconds that a new process takes to import torch."""

    def check(step: str, spec: Path) -> str:
        with redirect_stdout(io.StringIO()) as said:
            code = export_check.main(step, spec)
        if code:
            raise RuntimeError(said.getvalue())
        return said.getvalue()

    monkeypatch.setattr(export, "in_fresh_process", check)


def exported(**settings: Any) -> Path:
    config = load({k: str(v) if isinstance(v, Path) else v for k, v in settings.items()})
    export.run(config)
    return Path(config.output or "")


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict())


@pytest.fixture(scope="module")
def llama(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model("llama", shared / "tokenizers" / "llama", tmp_path_factory.mktemp("llama") / "base")


@pytest.fixture(scope="module")
def padded(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as Stanford Alpaca's: LLaMA's tokenizer has no padding token, so training adds a row."""
    folder = tmp_path_factory.mktemp("padded")
    launch(tiny_training(folder, llama, "method=full"), folder / "run")
    return folder / "run"


def tiny_training(folder: Path, base: Path, *more: str) -> Any:
    settings = ["data=seed_tasks", "data.limit=8", f"data.cache={folder / 'cache'}", "batch.global_size=4", "batch.per_device=4"]  # fmt: skip
    settings += ["trainer.max_steps=2", "trainer.save_strategy=no", "rehearse_save=false", "check_saved=false"]
    return compose("model=hub", f"model.path={base}", *settings, "trainer.learning_rate=1e-2", *more)


def test_the_command_merges_a_lora_and_checks_it_in_fresh_processes(tiny_lora_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "hf"
    done = run_python("export.py", f"run={tiny_lora_run}", "format=hf", "dtype=bfloat16", f"output={out}")
    assert done.stdout == f"{out}\n" and "loaded by transformers in a fresh process" in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"hf"}  # nothing is left beside it
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.bfloat16 and json.loads((out / "prompt.json").read_text())["name"] == "alpaca_short"
    rows = [json.loads(line) for line in (tiny_lora_run.parent / "rows.jsonl").read_text().splitlines()]
    row = next(r for r in rows if not r["input"])
    ids = tokenizer(f"### Instruction:\n{row['instruction']}\n\n### Response:\n", return_tensors="pt")
    said = model.float().generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True).strip() == row["output"]
    card = (out / "README.md").read_text()
    assert "library_name: transformers" in card and "| loss |" in card and "licences" in card


def test_a_merge_that_does_nothing_leaves_no_output(tiny_lora_run: Path, tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(weights.Adapter, "merged", lambda self, layer, weight: weight.float())
    with pytest.raises(RuntimeError, match="differ by at most"):
        exported(run=tiny_lora_run, output=tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extra", ["method.lora.rslora=true", "method.lora.dora=true", "method=qlora"])
def test_every_kind_of_adapter_merges_as_peft_does(extra: str, tiny_run: Path, tmp_path: Path, in_this_process: None) -> None:  # fmt: skip
    base = tiny_run / "model"
    launch(tiny_training(tmp_path, base, "method=lora", extra, "prompt=alpaca_short"), tmp_path / "run")
    out = exported(run=tmp_path / "run", output=tmp_path / "hf")
    before, after = parameters(base), parameters(out)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed and all("proj" in n for n in changed)
    assert {t.dtype for t in after.values()} == {torch.float32}


def test_an_adapter_goes_out_for_peft(tiny_lora_run: Path, tmp_path: Path, in_this_process: None) -> None:
    out = exported(run=tiny_lora_run, format="adapter", output=tmp_path / "adapter", dtype="bfloat16")
    assert {t.dtype for t in load_file(out / "adapter_model.safetensors").values()} == {torch.bfloat16}
    assert (out / "adapter_config.json").is_file() and (out / "prompt.json").is_file()


def test_shards_stay_shards(tiny_run: Path, tmp_path: Path, in_this_process: None) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_run / "model")
    model.save_pretrained(tmp_path / "base", max_shard_size="600KB")
    AutoTokenizer.from_pretrained(tiny_run / "model").save_pretrained(tmp_path / "base")
    files = sorted((tmp_path / "base").glob("model-*.safetensors"))
    out = exported(model=tmp_path / "base", output=tmp_path / "hf", dtype="float16")
    assert len(files) > 1 and len(list(out.glob("model-*.safetensors"))) == len(files)
    assert all(torch.equal(parameters(out)[n], p.half()) for n, p in model.state_dict().items())


def test_an_added_padding_row_is_kept_or_trimmed(padded: Path, llama: Path, tmp_path: Path, in_this_process: None) -> None:  # fmt: skip
    kept = exported(run=padded, output=tmp_path / "kept")
    assert parameters(kept)["lm_head.weight"].shape[0] == 32_001 and len(AutoTokenizer.from_pretrained(kept)) == 32_001
    trimmed = exported(run=padded, output=tmp_path / "trimmed", vocabulary="trim")
    found, tokenizer = parameters(trimmed), AutoTokenizer.from_pretrained(trimmed)
    assert found["lm_head.weight"].shape[0] == found["model.embed_tokens.weight"].shape[0] == 32_000
    assert len(tokenizer) == 32_000 and tokenizer.pad_token == "<unk>"
    assert torch.equal(found["lm_head.weight"], parameters(kept)["lm_head.weight"][:32_000])


def test_a_difference_gives_back_every_bit_and_names_what_does_not_fit(padded: Path, llama: Path, tmp_path: Path, in_this_process: None) -> None:  # fmt: skip
    diff = exported(run=padded, format="diff", base=llama, output=tmp_path / "diff", dtype="bfloat16")
    back = exported(recover=diff, base=llama, output=tmp_path / "back")
    merged = exported(run=padded, output=tmp_path / "hf", dtype="bfloat16", verify=False)
    assert (back / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()
    assert not (back / "diff.json").exists() and (back / "tokenizer.json").is_file()

    other = tmp_path / "other"
    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] += 1e-4
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="model.layers.1.mlp.up_proj.weight is not the tensor"):
        exported(recover=diff, base=other, output=tmp_path / "wrong")
    changed = load_file(diff / "model.safetensors")
    changed["model.norm.weight"][0] = 2
    save_file(changed, diff / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="model.norm.weight does not come back"):
        exported(recover=diff, base=llama, output=tmp_path / "wrong")
    assert not list(tmp_path.glob("*wrong*"))


def answers(path: Path, prompt: str, count: int) -> str:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (requirements-gguf.txt)")
    model = llama_cpp.Llama(str(path), n_ctx=256, verbose=False, n_threads=1)
    return model.create_completion(prompt, max_tokens=count, temperature=0.0)["choices"][0]["text"]


@pytest.mark.parametrize("dtype", ["float16", "q8_0"])
def test_llama_cpp_recites_what_a_run_learnt(dtype: str, tiny_run: Path, tiny_rows: Path, tmp_path: Path, in_this_process: None) -> None:  # fmt: skip
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (requirements-gguf.txt)")
    out = exported(run=tiny_run, format="gguf", dtype=dtype, output=tmp_path / "m.gguf")
    rows = [json.loads(line) for line in tiny_rows.read_text().splitlines()]
    row = next(r for r in rows if not r["input"])
    said = answers(out, f"### Instruction:\n{row['instruction']}\n\n### Response:\n", 40)
    assert said.strip() == row["output"]

    import llama_cpp

    chat = llama_cpp.Llama(str(out), n_ctx=256, verbose=False, n_threads=1)
    reply = chat.create_chat_completion(
        [{"role": "user", "content": row["instruction"]}], max_tokens=40, temperature=0.0
    )
    assert reply["choices"][0]["message"]["content"].strip() == row["output"]  # the prompt travels in the file


def test_gguf_of_llamas_own_tokenizer_with_grouped_heads(shared: Path, llama: Path, tmp_path: Path, in_this_process: None) -> None:  # fmt: skip
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (requirements-gguf.txt)")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    grouped = LlamaForCausalLM(LlamaConfig(vocab_size=32_000, intermediate_size=96, max_position_embeddings=256, initializer_range=0.2, **sizes))  # fmt: skip
    grouped.save_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.save_pretrained(tmp_path / "base")
    out = exported(model=tmp_path / "base", format="gguf", output=tmp_path / "m.gguf")
    model = llama_cpp.Llama(str(out), vocab_only=True, verbose=False)
    rows = json.loads((shared / "data" / "alpaca_data.json").read_text())[:300]
    for text in [*(r["output"] for r in rows), "两个  spaces\n\n\ttab é 😀 x"]:
        assert model.tokenize(text.encode(), add_bos=True, special=True) == tokenizer(text)["input_ids"]


def test_gguf_refuses_what_llama_cpp_would_run_otherwise(shared: Path, tmp_path: Path) -> None:
    opt = write_tiny_model("opt", shared / "tokenizers" / "opt", tmp_path / "opt")
    with pytest.raises(UserError, match="takes the families llama, mistral: this is opt"):
        exported(model=opt, format="gguf", output=tmp_path / "m.gguf")
    assert {p.name for p in tmp_path.iterdir()} == {"opt"}


def test_bad_input_is_a_line(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_python("export.py", "format=hf", "dtype=q8_0", "adapter=x", code=2)
    for words in (
        "give either run=RUN_FOLDER or model=",
        "dtype=q8_0 goes with format=gguf",
        "adapter goes with model",
    ):
        assert words in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    with pytest.raises(UserError, match="this one trained every weight"):
        exported(run=tiny_run, format="adapter", output=tmp_path / "a")
    with pytest.raises(UserError, match="takes a finished run folder"):
        exported(run=tmp_path, output=tmp_path / "a")
    with pytest.raises(UserError, match="is there already"):
        exported(run=tiny_run, output=tmp_path)
    with pytest.raises(UserError, match="made its model from nothing"):
        exported(run=tiny_run, format="diff", output=tmp_path / "d")
    monkeypatch.setitem(os.environ, "HF_TOKEN", "none")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="push=me/model failed"):
        export.push(tiny_run / "model", "me/model")
