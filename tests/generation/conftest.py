"""A teacher on the loopback, rows for it, and the command as a user runs it."""

import itertools
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import forks

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("ALPACA_SHARED", ROOT.parent / "shared"))
_NUMBER = itertools.count()


def shared_rows(name: str) -> list[dict[str, str]]:
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"{path} is not there (ALPACA_SHARED names the folder)")
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.split("\n") if line.strip()]


def made_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows of made-up words: no two instructions alike."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abdegiklmnorstu", k=rng.randrange(3, 9))) for _ in range(3000)]
    return [
        {
            "instruction": " ".join(rng.choices(words, k=rng.randrange(6, 14))).capitalize() + ".",
            "input": " ".join(rng.choices(words, k=5)) if rng.random() < 0.4 else "",
            "output": " ".join(rng.choices(words, k=rng.randrange(3, 20))),
        }
        for _ in range(count)
    ]


class Teacher:
    """A running server."""

    def __init__(self, folder: Path, rows: list[dict[str, str]], settings: dict[str, Any]) -> None:
        name = folder / f"server{next(_NUMBER)}"
        name.with_suffix(".jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        port = name.with_suffix(".port")
        command = [sys.executable, str(ROOT / "tests/generation/server.py"), str(name.with_suffix(".jsonl")), str(port)]
        self.process = subprocess.Popen([*command, json.dumps(settings)])
        deadline = time.monotonic() + 20
        while not port.exists():
            assert time.monotonic() < deadline and self.process.poll() is None, "the server did not start"
            time.sleep(0.02)
        self.address = f"http://127.0.0.1:{port.read_text()}"

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.address + "/stats") as answer:
            return json.load(answer)

    def set(self, **settings: Any) -> None:
        urllib.request.urlopen(self.address + "/settings", data=json.dumps(settings).encode()).close()

    def arguments(self, output: Path, *more: str) -> list[str]:
        fixed = ["teacher=local", f"teacher.base_url={self.address}/v1", "teacher.model=teacher-1", f"output={output}"]
        return [str(ROOT / "generate_data.py"), *fixed, "teacher.backoff=0.02", *more]

    def start(self, output: Path, *more: str) -> forks.Forked:
        return forks.Forked(self.arguments(output, *more), Path.cwd())

    def run(self, output: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return forks.run(self.arguments(output, *more), Path.cwd(), os.environ | environment, timeout=200)


@pytest.fixture
def teacher(tmp_path: Path) -> Iterator[Callable[..., Teacher]]:
    running: list[Teacher] = []

    def start(rows: list[dict[str, str]] | None = None, **settings: Any) -> Teacher:
        running.append(Teacher(tmp_path, rows or made_rows(4000), settings))
        return running[-1]

    yield start
    for server in running:
        server.process.kill()
        server.process.wait()


def rows_of(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line]


def bare(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return sorted((r["instruction"], r["input"], r["output"]) for r in rows)
