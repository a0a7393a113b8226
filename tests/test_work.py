"""The work done, not the time it takes: what is tokenised, read and written. Tokens and logits: test_fast.py."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from alpaca import data, forward_check
from alpaca.config import TrainConfig
from alpaca.launch import launch
from alpaca.pieces import Pieces
from alpaca.prompts import Prompt
from tests.commands import compose

TASKS = Path(data.__file__).parent / "generation" / "seed_tasks.jsonl"
TIMES = 20
"""How often the tasks stand in the file."""


def transferred() -> dict[str, int]:
    """Bytes that this process has asked the system to read (`rchar`) and write (`wchar`) so far."""
    found = re.findall(r"(\w+): (\d+)", Path("/proc/self/io").read_text())
    return {name: int(number) for name, number in found}


class Counted:
    """Texts that go to the tokenizer: in pieces, and whole by whatever way it can be asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces: list[str] = []
        self.whole: list[str] = []
        learn = Pieces._learn
        encode, backend = PreTrainedTokenizerFast._encode_plus, PreTrainedTokenizerFast.backend_tokenizer.fget
        whole = self.whole

        def counted_learn(pieces: Pieces, new: list[str]) -> None:
            self.pieces += new
            learn(pieces, new)

        def counted_encode(tokenizer: Any, text: Any, *more: Any, **options: Any) -> Any:
            whole.extend([text] if isinstance(text, str) else text)
            return encode(tokenizer, text, *more, **options)

        class Backend:
            """The tokenizers-library object, which cannot be patched itself."""

            def __init__(self, real: Any) -> None:
                self.__dict__["real"] = real

            def __getattr__(self, name: str) -> Any:
                method = getattr(self.real, name)
                if not name.startswith("encode") or not callable(method):
                    return method

                def counted(texts: Any, *more: Any, **options: Any) -> Any:
                    whole.extend([texts] if isinstance(texts, str) else texts)
                    return method(texts, *more, **options)

                return counted

            def __setattr__(self, name: str, value: Any) -> None:
                setattr(self.real, name, value)

        monkeypatch.setattr(Pieces, "_learn", counted_learn)
        monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", counted_encode)
        monkeypatch.setattr(
            PreTrainedTokenizerFast, "backend_tokenizer", property(lambda tokenizer: Backend(backend(tokenizer)))
        )


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    lines = TASKS.read_text(encoding="utf-8").splitlines() * TIMES
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return compose("data=custom", f"data.path={tmp_path / 'rows.jsonl'}", f"data.cache={tmp_path / 'cache'}")


def test_each_piece_is_tokenised_once_and_nothing_when_warm(
    config: TrainConfig, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = Prompt.from_config(config.prompt)
    rows = [json.loads(line) for line in TASKS.read_text(encoding="utf-8").splitlines()]
    text = TIMES * sum(len(prompt.render(r["instruction"], r["input"]) + r["output"]) for r in rows)
    counted = Counted(monkeypatch)
    data.prepare(config, tiny_tokenizer, prompt)
    assert len(counted.pieces) == len(set(counted.pieces)) > 1000
    assert sum(map(len, counted.pieces)) < 0.04 * text  # of the 175 tasks alone it would be 20 times that
    assert set(counted.whole) == {"a"}  # what special tokens stand around a text
    data.prepare(config, tiny_tokenizer, prompt)
    assert set(counted.whole) == {"a"} and len(counted.pieces) == len(set(counted.pieces))


def test_the_file_is_read_three_times_cold_and_once_warm_and_the_tokens_are_written_once(
    config: TrainConfig, tiny_tokenizer: Any
) -> None:
    prompt = Prompt.from_config(config.prompt)
    size = Path(config.data.path or "").stat().st_size
    used = []
    for _ in range(2):
        before = transferred()
        prepared = data.prepare(config, tiny_tokenizer, prompt)
        used.append({name: number - before[name] for name, number in transferred().items()})
    cold, warm = used
    spare = 100_000  # modules that are imported on the way, the report
    assert size > 5 * spare
    assert cold["rchar"] < 3 * size + spare  # its digest before and after, and its rows
    assert warm["rchar"] < size + spare and warm["wchar"] < 1000
    (entry,) = Path(config.data.cache or "").iterdir()
    files = {path.name: path.stat().st_size for path in entry.iterdir()}
    assert sorted(files) == ["report.json", "tokens.arrow"]
    assert cold["wchar"] < sum(files.values()) + 1000
    assert files["tokens.arrow"] < 4 * prepared.report.tokens + 16 * prepared.report.rows + spare


MODEL = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
RECORDS = ["config.yaml", "environment.json", "loss.png", "metrics.jsonl", "result.json"]
SMALL = [
    "model.vocab_size=400",
    "model.architecture.hidden_size=32",
    "model.architecture.num_attention_heads=2",
    "model.architecture.num_key_value_heads=2",
    "model.architecture.num_hidden_layers=1",
    "model.architecture.intermediate_size=64",
    "data.limit=48",
    "data.validation=8",
    "prompt=alpaca_short",
    "batch.global_size=16",
    "batch.per_device=4",
    "trainer.num_train_epochs=2",
    "trainer.save_strategy=no",
    "rehearse_save=false",
    "check_saved=false",
]


def test_a_run_takes_each_token_once_an_epoch_and_writes_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward passes and files, each of which costs time; beside them a check before the first step, of fixed size."""
    passes: dict[str, list[int]] = {"check": [], "training": [], "evaluation": []}
    forward, choose, checking = torch.nn.Embedding.forward, forward_check.choose, []

    def counted(layer: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        passes["check" if checking else "training" if layer.training else "evaluation"].append(ids.numel())
        return forward(layer, ids)

    def noted(*words: Any, **options: Any) -> None:
        checking.append(True)
        choose(*words, **options)
        checking.clear()

    monkeypatch.setattr(torch.nn.Embedding, "forward", counted)
    monkeypatch.setattr(forward_check, "choose", noted)
    run = tmp_path / "run"
    launch(compose(*SMALL, f"data.cache={tmp_path / 'cache'}"), run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = sum("eval_loss" in line for line in lines)
    assert len(passes["check"]) == 10
    assert len(passes["training"]) == 2 * 40 / 4 and sum(passes["training"]) == lines[-1]["tokens"]
    assert evaluations and len(passes["evaluation"]) == evaluations * 8 / 4
    assert len(set(passes["evaluation"])) == 2
    expected = [*RECORDS, *(f"base/{n}" for n in MODEL), *(f"model/{n}" for n in [*MODEL, "README.md", "prompt.json"])]
    found = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert found - {".lock"} == set(expected)
