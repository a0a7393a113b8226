"""What goes wrong outside the config: model folders, full disks, bad losses, run folders, infer.py. A clear line each."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from alpaca import batch, infer_config
from alpaca import model as base_model
from alpaca.config import BatchConfig, ModelConfig
from alpaca.convert import convert
from alpaca.errors import UserError
from alpaca.inference import load_run
from alpaca.launch import check_processes, launch
from alpaca.results import RunFolder
from tests import forks
from tests.commands import ROOT, compose, run_python

TINY = [
    "model.vocab_size=300",
    "model.architecture.hidden_size=32",
    "model.architecture.num_attention_heads=2",
    "model.architecture.num_key_value_heads=2",
    "model.architecture.num_hidden_layers=1",
    "model.architecture.intermediate_size=64",
    "data.limit=32",
    "batch.global_size=8",
    "batch.per_device=8",
    "trainer.save_strategy=no",
    "rehearse_save=false",
    "check_saved=false",
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def to_pickle(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def shard_index(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)


MODEL_DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "empty config": (lambda f: os.truncate(f / "config.json", 0), "config.json is damaged"),
    "truncated config": (lambda f: os.truncate(f / "config.json", 40), "config.json is damaged"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "names no model_type"),
    "config binary": (lambda f: (f / "config.json").write_bytes(b"\x80\x81"), "config.json is damaged"),
    "no model type": (lambda f: edit_config(f, model_type=None), "names no model_type"),
    "unknown model type": (lambda f: edit_config(f, model_type="lama"), "cannot be loaded"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "empty weights": (lambda f: os.truncate(f / "model.safetensors", 0), "cannot be loaded"),
    "half the weights": (lambda f: os.truncate(f / "model.safetensors", 9000), "cannot be loaded"),
    "weights of zeros": (lambda f: (f / "model.safetensors").write_bytes(bytes(5000)), "cannot be loaded"),
    "weights are text": (lambda f: (f / "model.safetensors").write_text("version https://git-lfs"), "cannot be loaded"),
    "a weight missing": (drop_weight, "lacks 1 weights"),
    "more layers than weights": (lambda f: edit_config(f, num_hidden_layers=3), "would start random"),
    "another width": (lambda f: edit_config(f, hidden_size=32), "would start random"),
    "another vocabulary": (lambda f: edit_config(f, vocab_size=41), "would start random"),
    "pickled weights": (to_pickle, "python -m alpaca.convert"),
    "index damaged": (lambda f: shard_index(f, "{"), "index.json is damaged"),
    "index a list": (lambda f: shard_index(f, "[]"), "index.json is damaged"),
    "index without map": (lambda f: shard_index(f, "{}"), "index.json is damaged"),
    "shard missing": (
        lambda f: shard_index(f, '{"weight_map": {"a": "model-1.safetensors"}}'),
        "lacks 1 of 1 weight files",
    ),
    "an adapter": (lambda f: (f / "config.json").rename(f / "adapter_config.json"), "give its base"),
    "a run folder": (lambda f: (f / "config.json").rename(f / "metrics.jsonl"), "infer.py run=DIR"),
}


@pytest.mark.parametrize("damage", MODEL_DAMAGES)
def test_damaged_model_folders(damage: str, model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    hurt, expected = MODEL_DAMAGES[damage]
    hurt(folder)
    with pytest.raises(UserError) as told:
        base_model.load(ModelConfig("hub", path=str(folder)), torch.float32)
    assert expected in str(told.value) and str(folder) in str(told.value)


def test_an_undamaged_folder_loads(model_folder: Path) -> None:
    assert base_model.load(ModelConfig("hub", path=str(model_folder)), torch.float32).config.vocab_size == 40


@pytest.mark.parametrize("path", ["./not/there", "/nowhere/at/all", "a/b/c/d"])
def test_model_paths_that_are_no_folder(path: str) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        base_model.architecture(ModelConfig("hub", path=path))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model_type": "lama"}, "not known to transformers"),
        ({"model_type": "llama", "hiden_size": 8}, "hiden_size is not a field"),
        ({"model_type": "llama", "hidden_size": "wide"}, "makes no llama config"),
        ({"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 6}, "multiple of num_key_value_h"),
        ({"model_type": "opt", "hidden_size": 1024, "num_attention_heads": 6}, "multiple of num_attention_heads=6"),
    ],
)
def test_bad_architectures(fields: dict, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        base_model.from_yaml(fields)


def test_pickled_weights_are_converted_and_code_in_them_is_not_run(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "pickled"))
    before = base_model.load(ModelConfig("hub", path=str(folder)), torch.float32).state_dict()
    to_pickle(folder)
    convert(str(folder), tmp_path / "new")
    after = base_model.load(ModelConfig("hub", path=str(tmp_path / "new")), torch.float32).state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="more than weights"):
        convert(str(folder), tmp_path / "other")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("size", "device", "processes", "hint"),
    [
        (10, 4, 1, "batch.global_size=8 or 12"),
        (128, 4, 3, "batch.global_size=120 or 132"),
        (2, 4, 1, "batch.per_device=1|2"),
        (7, 2, 2, "launch.processes="),
    ],
)
def test_batches_that_do_not_divide(size: int, device: int, processes: int, hint: str) -> None:
    with pytest.raises(UserError) as told:
        batch.accumulation(BatchConfig(size, device), processes)
    assert "is not a multiple of" in str(told.value)
    if hint != "launch.processes=":
        assert hint in str(told.value)


def test_steps_are_those_of_the_published_recipe() -> None:
    config = BatchConfig(128, 4)
    assert batch.plan(config, 4, 52002, 3).accumulation == 8
    assert batch.plan(config, 4, 52002, 3).steps == 1221
    assert batch.plan(config, 4, 52002 // 128 * 128, 3).steps == 1218


def test_an_exploding_loss_stops_the_run_and_names_step_and_rows(tmp_path: Path) -> None:
    config = compose(
        *TINY,
        f"data.cache={tmp_path / 'c'}",
        "trainer.learning_rate=1e30",
        "trainer.max_grad_norm=0",
        "trainer.warmup_steps=0",
    )
    with pytest.raises(UserError, match=r"the loss is not finite at step \d+ \(.*\); rows of the batch: \[\d+, "):
        launch(config, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed" and "not finite" in result["error"]


def test_a_loss_of_zero_for_three_steps_stops_the_run() -> None:
    from alpaca.trainer import AlpacaTrainer

    class Bare(AlpacaTrainer):
        def __init__(self) -> None:
            from types import SimpleNamespace

            self.state, self.args = SimpleNamespace(global_step=4), SimpleNamespace(device=torch.device("cpu"))
            self.zero_steps, self.step_losses, self.unread, self.unlogged = 0, [], [], []

    trainer = Bare()
    for value in (0.0, 0.0, 1.0, 0.0, 0.0):
        trainer.step_losses = [(torch.tensor(value), [1, 2])]
        trainer.check_losses()
    trainer.step_losses = [(torch.tensor(0.0), [7, 8])]
    with pytest.raises(UserError, match=r"exactly 0 for 3 steps.*rows of the batch: \[7, 8\]"):
        trainer.check_losses()


LIMITED = """
import resource, signal, sys, runpy
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, {bytes}))
sys.argv = ["train.py"] + {words!r}
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("limit", "expected"), [(60_000, "cannot be written"), (150_000, "checkpoint checkpoint-2 cannot be written")]
)
def test_a_disk_that_is_full_on_saving(limit: int, expected: str, tmp_path: Path) -> None:
    # a limit on the size of files fails a write as a full disk does; optimiser state is twice the model
    words = [w for w in TINY if not w.startswith(("trainer.save_strategy", "rehearse_save"))]
    words += ["trainer.save_steps=2", f"hydra.run.dir={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}"]
    code = LIMITED.format(bytes=limit, words=words)
    done = forks.run(["-c", code], ROOT)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr and "Traceback" not in done.stderr
    left = list((tmp_path / "run" / "checkpoints").glob("*")) if (tmp_path / "run" / "checkpoints").exists() else []
    assert left == []
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"
    run_python("train.py", *words)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "completed"


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run")
    first.lock()
    with pytest.raises(UserError, match="in use by another run"):
        RunFolder(tmp_path / "run").lock()


def test_who_looks_whether_a_run_goes_on_does_not_turn_it_away(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    looker = RunFolder(tmp_path / "run")
    looker.lock()
    threading.Timer(0.1, looker.release).start()
    run = RunFolder(tmp_path / "run")
    run.lock()
    assert looker.is_locked(), "the run has the folder"
    run.release()
    assert not looker.is_locked()


def test_one_process_says_that_nothing_is_sharded(capsys: pytest.CaptureFixture) -> None:
    check_processes(compose(*TINY, "method=full_fsdp", "launch.processes=1"))
    assert "strategy=fsdp on one process has nothing to shard" in capsys.readouterr().err


INFER = [
    (["instruction=hi"], "give either run=RUN_FOLDER or model="),
    (["run=a", "model=b", "instruction=hi"], "give either run=RUN_FOLDER or model="),
    (["run=a"], "give one of instruction"),
    (["run=a", "instruction=hi", "interactive=true"], "give one of instruction"),
    (["run=a", "instruction='  '"], "instruction is empty"),
    (["run=a", "batch.input=x"], "go together"),
    (["run=a", "adapter=b", "instruction=hi"], "adapter goes with model"),
    (["run=a", "instruction=hi", "temperature=-1"], "temperature=-1"),
    (["run=a", "instruction=hi", "top_p=0"], "top_p=0"),
    (["run=a", "instruction=hi", "top_p=1.5"], "top_p=1.5"),
    (["run=a", "instruction=hi", "num_beams=0"], "num_beams=0"),
    (["run=a", "instruction=hi", "max_new_tokens=0"], "max_new_tokens=0"),
    (["run=a", "instruction=hi", "repetition_penalty=0"], "repetition_penalty=0"),
    (["run=a", "instruction=hi", "prompt=alpca"], "did you mean 'alpaca'"),
    (["run=a", "instruction=hi", "device=gpu"], "auto|cpu|cuda"),
    (["run=a", "interactive=true", "input=x"], "input goes with instruction"),
    (["run=a", "instruction=hi", "batch.size=0"], "batch.size=0"),
    (["run=a", "instruction=hi", "quantize=int4"], "auto|none|int8|nf4"),
    (["run=a", "interactive=true", "engine=vllm"], "engine=vllm goes with"),
    (["run=a", "instruction=hi", "engine=vllm", "quantize=nf4"], "takes no quantize=nf4"),
    (["run=a", "ui.name=gradio", "serve.name=openai"], "give one of"),
    (["run=a", "ui.name=gradio", "instruction=hi"], "give one of"),
    (["run=a", "ui.name=gradio", "compare=[b,c]"], "give either run"),
    (["instruction=hi", "compare=[b,c]"], "goes with ui=gradio"),
    (["ui.name=gradio", "compare=[b]"], "takes 2 to 4"),
    (["ui.name=gradio", "ui.user=me"], "go together"),
    (["ui.name=gradio", "ui.port=99999"], "ui.port=99999"),
]


@pytest.mark.parametrize(("words", "expected"), INFER)
def test_infer_settings(words: list[str], expected: str) -> None:
    merged = OmegaConf.to_container(OmegaConf.from_dotlist(words))
    with pytest.raises(UserError) as told:
        infer_config.load(merged)
    assert expected in str(told.value)


@pytest.mark.parametrize("state", ["missing", "empty", "no model", "bad config"])
def test_run_folders_that_cannot_answer(state: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if state != "missing":
        folder.mkdir()
    if state == "no model":
        from alpaca import schema

        (folder / "config.yaml").write_text(OmegaConf.to_yaml(schema.to_plain(compose(*TINY))))
    if state == "bad config":
        (folder / "config.yaml").write_text("a: [")
    expected = {
        "missing": "is not a folder",
        "empty": "has no config.yaml",
        "no model": "has no model/",
        "bad config": "is damaged",
    }
    with pytest.raises(UserError, match=expected[state]):
        load_run(RunFolder(folder))


BAD_QUESTIONS = {
    "": "holds no rows",
    "{": "rows.jsonl:1 is no JSON",
    '{"instruction": "a"}\n{"instruction": ': "rows.jsonl:2 is no JSON",
    '{"question": "a"}': "rows.jsonl:1: a row takes a text",
    '{"instruction": 5}': "rows.jsonl:1: a row takes a text",
    '{"instruction": "  "}': "rows.jsonl:1: a row takes a text",
    '{"instruction": "a", "input": 5}': "rows.jsonl:1: `input` is no text",
    "[1]": "item 1: a row takes a text",
    "[{]": "is no JSON list",
    '"text"': "rows.jsonl:1: a row takes a text",
}


@pytest.mark.parametrize("text", BAD_QUESTIONS, ids=list(BAD_QUESTIONS.values()))
def test_bad_files_of_questions(text: str, tmp_path: Path) -> None:
    from alpaca.answering import read_rows

    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(UserError) as told:
        read_rows(path)
    assert BAD_QUESTIONS[text] in str(told.value)


def test_a_python_without_the_packages_is_told_where_they_are() -> None:
    done = subprocess.run([sys.executable, "-S", "train.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: Hydra is not installed for ")
    assert done.stderr.count("\n") == 1 and ". .venv/bin/activate" in done.stderr
