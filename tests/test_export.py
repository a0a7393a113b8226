"""Exports, each loaded again as its users would: by transformers, PEFT and llama.cpp."""

import io
import json
import os
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpaca import export, export_check, gguf_file, weights
from alpaca.errors import UserError
from alpaca.export_config import load
from alpaca.launch import launch
from tests.commands import compose, run_python
from tests.hub import Hub
from tests.tiny import write_tiny_model


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


@pytest.mark.parametrize("verify", ["whole", "streamed"])
def test_a_merge_that_does_nothing_leaves_no_output(verify: str, tiny_lora_run: Path, tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(weights.Adapter, "merged", lambda self, layer, weight: weight.float())
    with pytest.raises(RuntimeError, match="differ by at most"):
        exported(run=tiny_lora_run, output=tmp_path / "hf", verify=verify)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extra", ["method.lora.rslora=true", "method.lora.dora=true", "method=qlora"])
def test_every_kind_of_adapter_merges_as_peft_does(extra: str, tiny_run: Path, tmp_path: Path, in_this_process: None) -> None:  # fmt: skip
    base = tiny_run / "model"
    launch(tiny_training(tmp_path, base, "method=lora", extra, "prompt=alpaca_short"), tmp_path / "run")
    out = exported(run=tmp_path / "run", output=tmp_path / "hf")
    exported(run=tmp_path / "run", output=tmp_path / "again", dtype="bfloat16", verify="streamed")
    before, after = parameters(base), parameters(out)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed and all("proj" in n for n in changed)
    assert {t.dtype for t in after.values()} == {torch.float32}


def test_a_model_beyond_memory_is_checked_tensor_by_tensor(tiny_lora_run: Path, padded: Path, tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**6))
    exported(run=tiny_lora_run, output=tmp_path / "hf")
    said = capsys.readouterr().err
    assert "0.0 GB are free: checked layer by layer" in said
    assert "21 tensors are the run's, 14 of them as PEFT merges them" in said
    exported(run=tiny_lora_run, format="adapter", output=tmp_path / "adapter")
    exported(run=padded, output=tmp_path / "trimmed", vocabulary="trim", dtype="float16")
    assert "tensors are the run's, 0 of them" in capsys.readouterr().err

    merged = weights.Adapter.merged

    def slightly_wrong(self: Any, layer: str, weight: torch.Tensor) -> torch.Tensor:
        result = merged(self, layer, weight)
        if layer.endswith("layers.1.mlp.up_proj"):
            result[5, 7] *= 1.001
        return result

    monkeypatch.setattr(weights.Adapter, "merged", slightly_wrong)
    with pytest.raises(RuntimeError, match="model.layers.1.mlp.up_proj.weight is not the run's"):
        exported(run=tiny_lora_run, output=tmp_path / "wrong", verify="streamed")


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


def write_base_and_adapter(folder: Path, layers: int, tokenizer: Any) -> int:
    """A LLaMA in bfloat16, in shards of at most 50 MB, and beside it FOLDER_adapter of rank 8; bytes of the adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 8, "num_key_value_heads": 8}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=4000, num_hidden_layers=layers, max_position_embeddings=256, **sizes))  # fmt: skip
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = (
            torch.randint(-99, 99, parameter.shape, generator=generator, dtype=torch.int8).bfloat16() / 2000
        )
    model.save_pretrained(folder, max_shard_size="50MB")
    tokenizer.save_pretrained(folder)
    tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 30
    adapter = Path(f"{folder}_adapter")
    tuned.save_pretrained(adapter)
    return (adapter / "adapter_model.safetensors").stat().st_size


@pytest.mark.slow
def test_a_sharded_model_is_streamed(tiny_tokenizer: Any, tmp_path: Path) -> None:
    write_base_and_adapter(tmp_path / "small", 1, tiny_tokenizer)
    adapter = write_base_and_adapter(tmp_path / "base", 10, tiny_tokenizer)
    shards = [f.stat().st_size for f in (tmp_path / "base").glob("*.safetensors")]
    assert len(shards) == 6 and sum(shards) > 270e6 and adapter < 17e6
    words = ["small", "base", "base_adapter", "out"]
    done = run_python("-m", "tests.measure_export", *(str(tmp_path / w) for w in words))
    peak = json.loads(done.stdout.splitlines()[-1])
    print(peak)
    in_float32 = 2816 * 1024 * 4  # of the largest tensor that is merged: weight, change and sum
    assert all(used < max(shards) + adapter + 3 * in_float32 + 10e6 for used in peak.values()), peak


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
    merged = exported(run=padded, output=tmp_path / "hf", dtype="bfloat16", verify="none")
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


ROPES = {
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    "linear": {"factor": 4.0},
}


@pytest.mark.parametrize("kind", ROPES)
def test_llama_cpp_turns_a_stretched_rope_as_transformers_does(kind: str, llama: Path, tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    rope = {"rope_type": kind, "rope_theta": 10_000.0, **ROPES[kind]}
    config = LlamaConfig(vocab_size=32_000, max_position_embeddings=512, initializer_range=0.2, rope_parameters=rope, **sizes)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path / "base")
    exported(model=tmp_path / "base", format="gguf", output=tmp_path / "m.gguf")
    from gguf import GGUFReader

    factors = next(t.data for t in GGUFReader(tmp_path / "m.gguf").tensors if t.name == "rope_freqs.weight")
    assert len(factors) == 16 and factors[-1] == pytest.approx(ROPES[kind]["factor"])
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (requirements-gguf.txt)")
    monkeypatch.setattr(gguf_file, "rope_factors", lambda config: None)
    with pytest.raises(RuntimeError, match="logits differ"):
        exported(model=tmp_path / "base", format="gguf", output=tmp_path / "plain.gguf")


def test_gguf_refuses_what_llama_cpp_would_run_otherwise(shared: Path, tmp_path: Path) -> None:
    opt = write_tiny_model("opt", shared / "tokenizers" / "opt", tmp_path / "opt")
    with pytest.raises(UserError, match="takes the families llama, mistral: this is opt"):
        exported(model=opt, format="gguf", output=tmp_path / "m.gguf")
    assert {p.name for p in tmp_path.iterdir()} == {"opt"}


def test_bad_input_is_a_line(tiny_run: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("kind", ["hf", "adapter"])
def test_a_damaged_file_is_named(kind: str, tiny_run: Path, tiny_lora_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run if kind == "hf" else tiny_lora_run, run)
    file = next((run / "model").glob("*.safetensors"))
    os.truncate(file, 3000)
    with pytest.raises(UserError, match=f"{file} cannot be read .*: it is damaged, copy it again"):
        exported(run=run, format=kind, output=tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"run"}


def test_a_push_uploads_the_export_and_a_failure_leaves_it(tiny_run: Path, tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # Git LFS instead
    monkeypatch.setitem(os.environ, "HF_TOKEN", "good")
    for _ in range(2):  # the second time the repository is there already
        out = exported(run=tiny_run, output=tmp_path / f"hf{_}", push="me/model", verify="none")
        files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        assert hub.repositories == {"me/model": files} and hub.private["me/model"]
    one = tmp_path / "m.gguf"
    one.write_bytes(b"GGUF")
    export.push(one, "team/other")
    assert hub.repositories["team/other"] == {"m.gguf": b"GGUF"}

    def refused(name: str, words: str) -> None:
        with pytest.raises(UserError, match=f"^push={name} failed .*{words}") as found:
            exported(run=tiny_run, output=tmp_path / "left", push=name, verify="none")
        assert "\n" not in str(found.value) and f"{tmp_path / 'left'} is written" in str(found.value)
        assert (tmp_path / "left" / "model.safetensors").is_file()
        shutil.rmtree(tmp_path / "left")

    hub.full = True
    refused("me/model", "403")
    monkeypatch.setitem(os.environ, "HF_TOKEN", "bad")
    refused("me/model", "401")
    hub.shutdown()
    hub.server_close()
    refused("me/model", "refused")
