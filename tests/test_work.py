"""The work done, not the time it takes: what is tokenised, read and written. Tokens and logits: test_fast.py."""

import json
import math
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaMLP

from alpaca import data, forward_check
from alpaca.config import TrainConfig
from alpaca.launch import launch
from alpaca.prompts import Prompt
from tests.commands import compose

TASKS = Path(data.__file__).parent / "generation" / "seed_tasks.jsonl"
TIMES = 20
"""How often the tasks stand in the file."""


def transferred() -> dict[str, int]:
    """Bytes that this process has asked the system to read (`rchar`) and write (`wchar`) so far."""
    found = re.findall(r"(\w+): (\d+)", Path("/proc/self/io").read_text())
    return {name: int(number) for name, number in found}


class Opened:
    """How often Python opens each file within a folder to write it (while `folder` is set: a hook cannot be removed)."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.times: Counter[str] = Counter()
        sys.addaudithook(self.note)

    def note(self, event: str, given: tuple[Any, ...]) -> None:
        if (
            self.folder is None
            or event != "open"
            or not isinstance(given[0], str)
            or not set(given[1] or "") & set("wax+")
        ):
            return
        path = Path(given[0])
        if path.is_relative_to(self.folder):
            self.times[path.relative_to(self.folder).as_posix()] += 1


class Backend:
    """A tokenizers-library object, which cannot be patched itself, that notes each text it is given."""

    def __init__(self, real: Any, texts: list[str]) -> None:
        self.__dict__.update(real=real, texts=texts)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.real, name)
        if not name.startswith("encode") or not callable(method):
            return method

        def counted(texts: Any, *more: Any, **options: Any) -> Any:
            self.texts.extend([texts] if isinstance(texts, str) else texts)
            return method(texts, *more, **options)

        return counted

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)


class Counted:
    """Texts that go to the tokenizer: in pieces, and whole by whatever way it can be asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces: list[str] = []
        self.whole: list[str] = []
        make, pieces, whole = tokenizers.Tokenizer, self.pieces, self.whole
        encode, backend = PreTrainedTokenizerFast._encode_plus, PreTrainedTokenizerFast.backend_tokenizer.fget

        def counted_encode(tokenizer: Any, text: Any, *more: Any, **options: Any) -> Any:
            whole.extend([text] if isinstance(text, str) else text)
            return encode(tokenizer, text, *more, **options)

        monkeypatch.setattr(tokenizers, "Tokenizer", lambda *parts: Backend(make(*parts), pieces))
        monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", counted_encode)
        monkeypatch.setattr(
            PreTrainedTokenizerFast, "backend_tokenizer", property(lambda tokenizer: Backend(backend(tokenizer), whole))
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
    assert set(counted.whole) == {"a"} and len(counted.whole) == 2 and len(counted.pieces) == len(set(counted.pieces))


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
    """Forward passes and files, each of which costs time; beside them a check of a dozen at most."""
    passes: dict[tuple[type, str], list[int]] = defaultdict(list)
    choose, checking = forward_check.choose, []

    def count(kind: type[torch.nn.Module], dimensions: int) -> None:
        """Note the tokens of each pass: all sizes of what a module of this kind is given but its last `dimensions`."""
        forward = kind.forward

        def counted(layer: torch.nn.Module, given: torch.Tensor, *more: Any, **options: Any) -> Any:
            part = "check" if checking else "training" if layer.training else "evaluation"
            passes[kind, part].append(math.prod(given.shape[: given.dim() - dimensions]))
            return forward(layer, given, *more, **options)

        monkeypatch.setattr(kind, "forward", counted)

    def noted(*words: Any, **options: Any) -> None:
        checking.append(True)
        choose(*words, **options)
        checking.clear()

    count(torch.nn.Embedding, 0)
    count(LlamaMLP, 1)
    monkeypatch.setattr(forward_check, "choose", noted)
    run = tmp_path / "run"
    config = compose(*SMALL, f"data.cache={tmp_path / 'cache'}")
    opened = Opened()
    opened.folder, before = tmp_path, transferred()["wchar"]
    launch(config, run)
    opened.folder, written = None, transferred()["wchar"] - before
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = sum("eval_loss" in line for line in lines)
    for kind in (torch.nn.Embedding, LlamaMLP):  # the latter twice where activations are recomputed
        check, training, evaluation = (passes[kind, part] for part in ("check", "training", "evaluation"))
        assert 0 < len(check) <= 12, kind
        assert len(training) == 2 * 40 / 4 and sum(training) == lines[-1]["tokens"], kind
        assert evaluations and len(evaluation) == evaluations * 8 / 4 and len(set(evaluation)) == 2, kind
    expected = [*RECORDS, *(f"base/{n}" for n in MODEL), *(f"model/{n}" for n in [*MODEL, "README.md", "prompt.json"])]
    found = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert found - {".lock"} == set(expected)
    often = {path: times for path, times in opened.times.items() if times > 1}
    tokenizer = ".base/tokenizer_config.json"  # when it was trained, and with the model
    assert often == {"run/metrics.jsonl": len(lines), f"run/{tokenizer}": 2} and len(opened.times) > 12
    sizes = {
        path.relative_to(tmp_path).as_posix(): path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()
    }
    spare = sizes["run/base/tokenizer.json"] + 20_000  # the same, and what is shown
    assert sizes["run/model/model.safetensors"] > 3 * spare
    assert written < sum(sizes.values()) + spare
