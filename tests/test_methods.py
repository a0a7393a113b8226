"""Every method on both families: learns a small set by heart, and recites it from the saved folder in a fresh process."""

import json
from pathlib import Path

import pytest

from alpaca.launch import launch
from tests.commands import compose, run_python

ROWS = 16
METHODS = ["full", "lora", "lora8bit", "qlora"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["red", "blue", "gold", "pink", "grey", "teal", "plum", "lime"]
    data = [
        {
            "instruction": f"Say word {i}.",
            "input": "loudly" if i % 3 == 0 else "",
            "output": f"{words[i % 8]} {words[(3 * i + 1) % 8]} {i}",
        }
        for i in range(ROWS)
    ]
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that has read some text: adapters on purely random weights learn little."""
    family = request.param
    sizes = {"llama": ["num_key_value_heads=4", "intermediate_size=256", "initializer_range=0.05"]}
    sizes["opt"] = ["word_embed_proj_dim=128", "ffn_dim=256", "init_std=0.08"]
    folder = tmp_path_factory.mktemp(family)
    config = compose(
        f"model=tiny_{family}",
        "model.vocab_size=600",
        "model.architecture.hidden_size=128",
        "model.architecture.num_attention_heads=4",
        "model.architecture.num_hidden_layers=2",
        *(f"model.architecture.{size}" for size in sizes[family]),
        f"data.cache={folder / 'cache'}",
        "prompt=alpaca_short",
        "loss_on=all",
        "max_length=160",
        "trainer.num_train_epochs=10",
        "trainer.learning_rate=3e-3",
        "trainer.save_strategy=no",
        "check_saved=false",
    )
    launch(config, folder / "run")
    return folder / "run" / "model"


@pytest.mark.slow
@pytest.mark.parametrize("base", ["llama", "opt"], indirect=True)
@pytest.mark.parametrize("method", METHODS)
def test_recites_from_the_saved_folder(method: str, base: Path, rows: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lora = [
        "method.lora.r=32",
        "method.lora.alpha=64",
        "method.lora.targets=all-linear",
        "method.lora.dropout=0",
        "trainer.lr_scheduler_type=constant_with_warmup",
        "trainer.warmup_steps=10",
    ]
    done = run_python(
        "train.py",
        "model=hub",
        f"model.path={base}",
        f"method={method}",
        *(lora if method != "full" else []),
        "data=custom",
        f"data.path={rows}",
        f"data.cache={tmp_path / 'cache'}",
        "prompt=alpaca_short",
        "batch.global_size=16",
        "batch.per_device=16",
        f"trainer.num_train_epochs={80 if method == 'full' else 120}",
        f"trainer.learning_rate={'2e-3' if method == 'full' else '3e-3'}",
        "trainer.save_strategy=no",
        f"hydra.run.dir={run}",
    )
    assert "reloaded in a fresh process" in done.stderr
    answers = tmp_path / "answers.jsonl"
    run_python("infer.py", f"run={run}", f"batch.input={rows}", f"batch.output={answers}")
    answered = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert [a["answer"] for a in answered] == [a["output"] for a in answered]
    assert {a["stopped"] for a in answered} == {"eos"}
    if method == "full":
        one = run_python("infer.py", f"run={run}", f"instruction={answered[1]['instruction']}")
        assert one.stdout == answered[1]["output"] + "\n"


def test_an_evaluation_changes_nothing_in_a_quantised_run(tmp_path: Path) -> None:
    """And a width that is no multiple of 64 trains: on some CPUs 4-bit weights are packed anew in evaluation mode."""
    losses = []
    for every in (1, 100):
        config = compose(
            "model.vocab_size=300",
            "model.architecture.hidden_size=32",
            "model.architecture.intermediate_size=96",
            "model.architecture.num_attention_heads=2",
            "model.architecture.num_key_value_heads=2",
            "model.architecture.num_hidden_layers=1",
            "method=qlora",
            "method.lora.dropout=0",
            "data.limit=24",
            "data.validation=4",
            f"data.cache={tmp_path / 'cache'}",
            "prompt=alpaca_short",
            "trainer.max_steps=4",
            f"trainer.eval_steps={every}",
            "trainer.save_strategy=no",
            "rehearse_save=false",
            "check_saved=false",
        )
        launch(config, tmp_path / str(every))
        lines = (tmp_path / str(every) / "metrics.jsonl").read_text().splitlines()
        losses.append([m["loss"] for line in lines if "loss" in (m := json.loads(line))])
    assert losses[0] == losses[1] and len(losses[0]) == 4
