"""FSDP2 and DeepSpeed in host memory: really cut, the steps of one process, resumed after kill -9."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from alpaca import checkpoints, sharding, training
from alpaca.errors import UserError
from alpaca.launch import launch
from alpaca.results import RunFolder
from alpaca.training import check_engine
from tests import processes as runs
from tests import shared_workers
from tests.commands import compose, run_python

SETTINGS = {"llama": runs.LLAMA, "opt": runs.OPT}
LARGE = [*runs.LLAMA, "model.architecture.hidden_size=1024", "model.architecture.intermediate_size=2816"]
LARGE += ["model.architecture.num_hidden_layers=6", "model.architecture.num_attention_heads=8"]
LARGE += ["model.architecture.num_key_value_heads=8"]
CASES = [("llama", ["strategy=fsdp"]), ("opt", ["strategy=deepspeed"])]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharding")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "strategy"), CASES, ids=[words[0] for _, words in CASES])
def test_cut_over_two_processes_killed_and_resumed(family: str, strategy: list[str], scratch: Path) -> None:
    words = [*SETTINGS[family], f"data.cache={scratch / 'cache'}"]
    alone = scratch / f"{family}-alone"
    launch(compose(*words, "launch.processes=1"), alone)
    folder = scratch / f"{family}-cut"
    several = [*words, *strategy, "launch.processes=2", f"hydra.run.dir={folder}", "check_saved=true"]
    process = runs.start(*several)
    runs.wait_for_step(folder, 5, process)
    process.kill()
    process.communicate()
    copy = Path(shutil.copytree(folder, scratch / f"{family}-four"))
    done = run_python("train.py", *several)
    assert "over 2 processes; this one holds" in done.stderr and "resuming from" in done.stderr
    assert "reloaded in a fresh process" in done.stderr
    assert runs.differ(folder, alone) < 1e-4
    if strategy == ["strategy=fsdp"]:
        one = Path(shutil.copytree(copy, scratch / f"{family}-one"))
        launch(compose(*words, *strategy, "launch.processes=1"), one)
        assert runs.differ(one, alone) < 1e-4
        runs.together(4, "train.py", *words, *strategy, f"hydra.run.dir={copy}")
        assert runs.differ(copy, alone) < 1e-4


SHORT = ["trainer.max_steps=5", "trainer.save_steps=3", "trainer.num_train_epochs=1", "launch.processes=2"]
LORA = ["method=lora", "method.lora.dropout=0", "trainer.learning_rate=1e-2"]
QLORA = ["method=qlora", "method.lora.r=8", "model.architecture.hidden_size=64"]
BF16 = ["precision=bf16"]
CHECKPOINTING = ["trainer.gradient_checkpointing=true"]
PACKED = ["data.packing=true", "max_length=300"]
BALANCED = ["training.balance=true"]
SETTINGS_OF = {
    "deepspeed": {
        "3": ["llama"],
        "2": ["opt", "strategy.stage=2"],
        "2 resumed": ["opt", "strategy.stage=2", "resume=2"],
        "2 llama": ["llama", "strategy.stage=2"],
        "2, balanced": ["llama", "strategy.stage=2", *BALANCED],
        "2, packed and balanced": ["llama", "strategy.stage=2", *PACKED, *BALANCED],
        "1, optimiser offloaded": ["llama", "strategy.stage=1", "strategy.offload=optimizer"],
        "3, all offloaded": ["llama", "strategy.offload=all"],
        "3, LoRA, activations checkpointed": ["llama", *LORA, *CHECKPOINTING],
        "3, bf16": ["llama", *BF16],
    },
    "fsdp": {
        "opt": ["opt", "strategy.reshard_after_forward=false"],
        "full": ["llama", "strategy.state_dict=full"],
        "full resumed": ["llama", "strategy.state_dict=full", "resume=full"],
        "offloaded": ["llama", "strategy.offload=all", *CHECKPOINTING],
        "bf16": ["llama", *BF16],
        "balanced": ["llama", *BALANCED],
        "packed": ["llama", *PACKED],
        "QLoRA": ["llama", *LORA, *QLORA],
        "QLoRA, packed and balanced": ["llama", *LORA, *QLORA, *PACKED, *BALANCED],
        "bf16, LoRA, one format": ["llama", *BF16, *LORA, "strategy.mixed_precision=false"],
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SETTINGS_OF)
def test_every_setting_takes_the_steps_of_one_process(strategy: str, scratch: Path) -> None:
    folder = scratch / strategy
    folder.mkdir()
    cases = {}
    for name, (family, *words) in SETTINGS_OF[strategy].items():
        words = [f"resume={folder}/{w[7:]}/checkpoints/checkpoint-3" if w.startswith("resume=") else w for w in words]
        cases[name] = [*SETTINGS[family], *SHORT, f"data.cache={scratch / 'cache'}", f"strategy={strategy}", *words]
    said = shared_workers.train(folder, cases)
    assert said.count(" over 2 processes; this one holds") == len(cases)
    for name, (family, *words) in SETTINGS_OF[strategy].items():
        words = [w for w in words if not w.startswith(("strategy.", "resume=", CHECKPOINTING[0], BALANCED[0]))]
        alone = scratch / " ".join(["alone", family, *words])
        if not alone.exists():
            common = [*SETTINGS[family], *SHORT, f"data.cache={scratch / 'cache'}", "launch.processes=1"]
            launch(compose(*common, *words), alone)
        narrow = BF16[0] in words
        assert runs.differ(folder / name, alone, late=True) < (0.05 if narrow else 1e-4), name
        assert narrow or weights_differ(folder / name, alone) < 1e-3, name


def weights_differ(ours: Path, theirs: Path) -> float:
    """Largest difference of a weight of what two runs saved, which plain transformers or PEFT load."""
    loader = AutoPeftModelForCausalLM if (ours / "model" / "adapter_config.json").is_file() else AutoModelForCausalLM
    one, two = (loader.from_pretrained(r / "model").state_dict() for r in (ours, theirs))
    assert one.keys() == two.keys()
    return max((one[k] - two[k]).abs().max().item() for k in one)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed"])
def test_one_process_reads_the_base(strategy: str, tmp_path: Path) -> None:
    """A base of 308 MB: the process that does not read it never holds much more than its half."""
    words = [*LARGE, f"data.cache={tmp_path / 'cache'}", f"strategy={strategy}", "launch.processes=2"]
    (tmp_path / "words.json").write_text(json.dumps(words))
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    training.prepare_for_workers(compose(*words), run)
    size = (run.base / "model.safetensors").stat().st_size
    runs.together(2, "-m", "tests.measure_loading", str(tmp_path))
    peaks = [json.loads((tmp_path / f"peak-{rank}.json").read_text()) / size for rank in range(2)]
    print({strategy: [round(p, 2) for p in peaks]})
    assert peaks[1] < 0.8 and peaks[0] < 2.2, peaks


@pytest.mark.slow
def test_processes_whose_gpus_differ_decide_alike(tmp_path: Path) -> None:
    """As the smallest of them needs it: else one would recompute, or multiply in a format, that the other does not."""
    runs.together(2, "-m", "tests.unequal_gpus", str(tmp_path))
    decided = [json.loads((tmp_path / f"decided-{rank}.json").read_text()) for rank in range(2)]
    assert decided == [[True, "fp16"]] * 2


def test_a_model_that_is_whole_is_refused() -> None:
    with pytest.raises(RuntimeError, match="2 parameters are whole on every process"):
        sharding.report(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="_no_split_modules"):
        sharding.blocks(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("state", "words", "expected"),
    [
        ({"engine": "fsdp", "processes": 2}, ["strategy=ddp"], "was written by strategy=fsdp"),
        ({"engine": "deepspeed", "processes": 2}, ["strategy=deepspeed"], "by DeepSpeed on 2 processes"),
    ],
)
def test_checkpoints_that_cannot_be_gone_on_from(state: dict, words: list[str], expected: str, tmp_path: Path) -> None:
    staged = tmp_path / checkpoints.STAGING
    staged.mkdir()
    checkpoints.commit(staged, tmp_path / "checkpoint-2", {"step": 2, **state})
    with pytest.raises(UserError, match=expected):
        check_engine(compose(*words), tmp_path / "checkpoint-2")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["strategy=fsdp", "strategy.offload=optimizer"], "goes with strategy=deepspeed"),
        (["strategy=deepspeed", "strategy.stage=2", "strategy.offload=all"], "needs strategy.stage=3"),
        (["strategy=ddp", "strategy.offload=all"], "goes with strategy=fsdp or deepspeed"),
        (["strategy=fsdp", "method=lora8bit"], "cannot shard an 8-bit base"),
        (["strategy=fsdp", "trainer.torch_compile=true"], "torch_compile cannot be with strategy=fsdp"),
        (["method=qlora", "trainer.torch_compile=true"], "cannot be with a quantised base"),
        (["strategy=fsdp", "trainer.torch_compile_backend=inductor"], "torch_compile cannot be with strategy=fsdp"),
        (["method=qlora", "trainer.torch_compile_mode=default"], "cannot be with a quantised base"),
        (
            ["training.liger=true", "trainer.torch_compile=true"],
            "training.liger=true cannot be with trainer.torch_compile",
        ),
    ],
)
def test_settings_that_do_not_go_together(words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        compose(*words)
