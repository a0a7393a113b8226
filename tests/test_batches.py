"""Rows packed together, and micro-batches balanced: what each step sees, the same losses and gradients, resumed exactly."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alpaca.balance import BalancedBatches
from alpaca.data import FlatCollator
from alpaca.errors import UserError
from alpaca.forward import padded, plain_loss
from alpaca.launch import launch
from alpaca.packing import PackedDataset, pack
from alpaca.rank_batches import FILLER, Filled, RankBatches
from tests import processes as runs
from tests.commands import compose
from tests.test_fast import COLLATE, ROWS, choose, example, make

SETTINGS = [
    *runs.LLAMA,
    "data.validation=null",
    "launch.processes=1",
    "rehearse_save=false",
    "trainer.optim=sgd",
    "trainer.save_strategy=no",
    "trainer.learning_rate=0.1",
    "trainer.warmup_steps=0",
    "trainer.lr_scheduler_type=constant",
]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batches")


@pytest.fixture(scope="module")
def lengths(shared: Path) -> np.ndarray:
    """Tokens of the first 8,000 rows of Alpaca in its prompt, LLaMA's tokenizer."""
    from transformers import AutoTokenizer

    rows = json.loads((shared / "data" / "alpaca_data.json").read_text())[:8000]
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / "llama")
    texts = [" ".join(row.values()) for row in rows]
    return np.array([min(512, 45 + len(ids)) for ids in tokenizer(texts)["input_ids"]])


class Examples:
    """A data set of a few examples."""

    fingerprint = "examples"

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.lengths = np.array([len(r["input_ids"]) for r in rows])
        self.prompt_lengths = np.array([int((r["labels"] == -100).sum()) for r in rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


# --- packing


def test_every_example_once_in_rows_that_are_nearly_full(lengths: np.ndarray) -> None:
    packs = pack(lengths, 512, 42)
    assert sorted(i for row in packs for i in row) == list(range(len(lengths)))
    assert max(int(lengths[row].sum()) for row in packs) <= 512
    assert lengths.sum() / (512 * len(packs)) > 0.97
    assert packs == pack(lengths, 512, 42) != pack(lengths, 512, 43)
    assert pack(np.array([600, 3]), 512, 0) == [[0], [1]]


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "mistral window"])
def test_an_example_s_losses_are_those_it_has_alone(name: str) -> None:
    model = make(name).eval()
    forward = choose(model)
    model.eval()
    dataset = PackedDataset(Examples([*ROWS, *(example(9 + n, 3, 10 + n) for n in range(6))]), 60, 0)
    assert len(dataset) == 4 and dataset.filled > 0.75
    one = torch.ones(())
    with torch.no_grad():
        for row in (dataset[i] for i in range(len(dataset))):
            found = forward(model, COLLATE([row]), one).losses  # type: ignore[list-item]
            alone = torch.cat([plain_loss(model, padded(COLLATE([e])), one).losses for e in row])
            assert found.tolist() == pytest.approx(alone.tolist(), rel=1e-5)


def test_a_model_that_cannot_keep_examples_apart_is_refused(scratch: Path) -> None:
    words = [*SETTINGS, "data.packing=true", f"data.cache={scratch / 'cache'}"]
    config = compose(*words)
    config.model.architecture = {
        "model_type": "bloom",
        "hidden_size": 32,
        "n_layer": 2,
        "n_head": 2,
    }
    with pytest.raises(UserError, match=r"keeps the examples of a row apart.*leave data.packing out"):
        launch(config, scratch / "bloom")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.packing=true", "training.fast=false"], "which training.fast=false does not"),
        (["training.balance=true", "loss_average=microbatch"], "use loss_average=token"),
    ],
)
def test_settings_that_do_not_go_together(words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        compose(*words)


# --- balance


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_step_keeps_its_rows(processes: int, pads: bool) -> None:
    lengths = np.random.default_rng(0).integers(5, 90, 100)
    for rows in (1, 2, 7, 11, 12, 13, 23, 24, 100):
        for drop in (False, True):
            steps: list[list[list[int]]] = []
            for kind in ("plain", "balanced"):
                found = []
                for rank in range(processes):
                    place = list(reversed(range(rows))), 4, processes, rank, drop
                    batches: Any = RankBatches(*place)
                    if kind == "balanced":
                        batches = BalancedBatches(*place, accumulation=2, lengths=lengths, padded=lambda: pads)
                    found.append(list(batches))
                    assert len(found[-1]) == len(batches) and max(map(len, found[-1]), default=0) <= 4
                steps.append(
                    [
                        sorted(i for mine in found for batch in mine[at : at + 2] for i in batch if i != FILLER)
                        for at in range(0, len(found[0]), 2)
                    ]
                )
            assert steps[0] == steps[1]


def spread(lengths: np.ndarray, balanced: bool, pads: bool, processes: int = 4) -> tuple[float, float]:
    """(mean over the steps of the fullest process's tokens / the average one's, share of real tokens in padded batches)."""
    order = np.random.default_rng(1).permutation(len(lengths)).tolist()
    batches = []
    for rank in range(processes):
        place = order, 4, processes, rank, True
        options: Any = {"accumulation": 8, "lengths": lengths, "padded": lambda: pads}
        batches.append(list(BalancedBatches(*place, **options) if balanced else RankBatches(*place)))
    tokens = np.array([[int(lengths[b].sum()) for b in mine] for mine in batches])
    padded_to = sum(int(lengths[b].max()) * len(b) for mine in batches for b in mine)
    work = np.array([[int(lengths[b].max()) * len(b) for b in mine] for mine in batches]) if pads else tokens
    steps = np.add.reduceat(work, range(0, work.shape[1], 8), axis=1)
    return float((steps.max(0) / steps.mean(0)).mean()), tokens.sum() / padded_to


def test_processes_get_the_same_tokens_on_real_lengths(lengths: np.ndarray) -> None:
    before, after = spread(lengths, False, False), spread(lengths, True, False)
    print("fullest process / average", before, after)
    assert before[0] > 1.05 and after[0] < 1.01
    before, after = spread(lengths, False, True), spread(lengths, True, True)
    print("padded", before, after)
    assert after[0] < 1.1 < before[0] and before[1] < 0.75 < 0.93 < after[1]


def test_a_balanced_run_takes_the_same_steps(scratch: Path) -> None:
    found = []
    for words in (
        ["training.balance=true"],
        ["training.balance=false"],
        ["training.balance=true", "training.fast=false"],
    ):
        folder = scratch / "-".join(words)
        launch(compose(*SETTINGS, *words, "trainer.num_train_epochs=2", f"data.cache={scratch / 'cache'}"), folder)
        found.append(runs.metrics(folder))
    for ours in (found[0], found[2]):
        for a, b in zip(ours, found[1], strict=True):
            assert (a["step"], a["tokens"]) == (b["step"], b["tokens"])
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("more", [["data.packing=true"], ["data.packing=true", "training.balance=true"]], ids=str)
def test_a_packed_run_is_resumed_exactly(
    more: list[str], scratch: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [*SETTINGS, *more, "batch.global_size=4", "trainer.num_train_epochs=4", f"data.cache={scratch / 'cache'}"]
    words += ["trainer.optim=adamw_torch", "max_length=400"]
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    launch(compose(*words), whole)
    said = capfd.readouterr().err
    result = json.loads((whole / "result.json").read_text())
    steps = 4 * -(-result["packed_rows"] // 4)
    assert result["rows"] == 45 and result["packed_rows"] < 45 and result["step"] == steps
    assert f"45 rows in {result['packed_rows']} packed ones of 400 tokens" in said and "this changes the recipe" in said
    launch(
        compose(*words, f"trainer.max_steps={steps // 2 + 1}", "trainer.save_strategy=steps", "trainer.save_steps=1"),
        halted,
    )
    shutil.rmtree(halted / "model")
    (halted / "result.json").unlink()
    launch(compose(*words), halted)
    assert [m | {"seconds": 0} for m in runs.metrics(halted)] == [m | {"seconds": 0} for m in runs.metrics(whole)]
    weights = [hashlib.sha256((f / "model" / "model.safetensors").read_bytes()).hexdigest() for f in (whole, halted)]
    assert weights[0] == weights[1]


def test_a_filler_of_packed_rows_is_two_tokens() -> None:
    filler = Filled(PackedDataset(Examples(ROWS), 60, 0))[FILLER]
    batch = FlatCollator(0)([filler])
    assert batch["lengths"] == [2] and batch["rows"] == [FILLER] and len(batch["targets"]) == 0
