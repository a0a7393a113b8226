"""The work done, not the time it takes: what is tokenised, read and written. Tokens and logits: test_fast.py."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from alpaca import data, encoding
from alpaca.config import TrainConfig
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
    """Texts and characters that go to the tokenizer: in pieces, and whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces: list[str] = []
        self.whole: list[str] = []
        learn, whole = Pieces._learn, encoding.Encoder._whole

        def counted_learn(pieces: Pieces, new: list[str]) -> None:
            self.pieces += new
            learn(pieces, new)

        def counted_whole(encoder: encoding.Encoder, texts: list[str], special: bool) -> Any:
            self.whole += texts
            return whole(encoder, texts, special)

        monkeypatch.setattr(Pieces, "_learn", counted_learn)
        monkeypatch.setattr(encoding.Encoder, "_whole", counted_whole)


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
    assert counted.whole == []
    data.prepare(config, tiny_tokenizer, prompt)
    assert counted.whole == [] and len(counted.pieces) == len(set(counted.pieces))


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


def test_the_files_of_a_run(tiny_run: Path) -> None:
    """Each has its use, and each costs time at the end of a run; answers and evaluations may stand beside them."""
    expected = [*RECORDS, *(f"base/{n}" for n in MODEL), *(f"model/{n}" for n in [*MODEL, "README.md", "prompt.json"])]
    found = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    assert set(expected) <= found
    assert {name for name in found if name.startswith(("base/", "model/", "checkpoints/"))} <= set(expected)
    assert {name for name in found if "/" not in name} - {".lock"} == set(RECORDS)
