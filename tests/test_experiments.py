"""Every pinned recipe runs, shrunk to a tiny model, a few rows and two steps."""

import dataclasses
import json
from pathlib import Path

import pytest

from alpaca.launch import launch
from tests.commands import compose

NAMES = sorted(p.stem for p in (Path(__file__).resolve().parent.parent / "conf" / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_runs_shrunk(name: str, tmp_path: Path) -> None:
    family = "opt" if "opt" in name else "llama"
    size = {"llama": ["intermediate_size=64", "num_key_value_heads=2"], "opt": ["word_embed_proj_dim=32", "ffn_dim=64"]}
    pinned = compose(f"experiment={name}")
    config = compose(
        f"experiment={name}",
        f"model=tiny_{family}",
        "model.vocab_size=300",
        "model.architecture.hidden_size=32",
        "model.architecture.num_attention_heads=2",
        "model.architecture.num_hidden_layers=1",
        *(f"model.architecture.{s}" for s in size[family]),
        "data=seed_tasks",
        "data.limit=24",
        f"data.cache={tmp_path / 'cache'}",
        "batch.global_size=8",
        "batch.per_device=4",
        "trainer.max_steps=2",
        "trainer.save_strategy=no",
        "check_saved=false",
    )
    # what the recipe is about is still what it says
    assert config.method == pinned.method and config.prompt == pinned.prompt
    assert (config.loss_on, config.loss_average) == (pinned.loss_on, pinned.loss_average)
    if config.data.validation:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, validation=4))
    launch(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if "loss" in line]
    assert [line["step"] for line in train] == [1, 2]
    assert all({"step", "loss", "learning_rate", "tokens", "seconds"} <= set(line) for line in train)
    assert any("eval_loss" in line for line in lines) == bool(config.data.validation)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "completed"
