"""The README's tour, each command as it is written, shrunk by further overrides alone; the Chinese README has the same."""

import os
import re
import shlex
import time
import urllib.request
from pathlib import Path

import pytest

from tests import forks
from tests.commands import ROOT
from tests.generation.conftest import Teacher, made_rows

SHRUNK = {
    "generate_data.py": ["num_instructions=40"],
    "train.py": [
        "data.validation=4",
        "model.vocab_size=400",
        "model.architecture.num_hidden_layers=1",
        "trainer.max_steps=3",
    ],
    "infer.py": ["max_new_tokens=8"],
    "evaluate.py": ["max_new_tokens=8"],
    "export.py": [],
}
SERVERS = {"ui=gradio": ("ui.port=0", ""), "serve=openai": ("serve.port=0", "/models")}
"""What makes a command one that runs until Ctrl-C -> its free port, and what to ask for behind the address it prints."""


def commands(name: str) -> list[list[str]]:
    """The commands of the second block of a README that stands under a heading with generate … export."""
    text = (ROOT / name).read_text(encoding="utf-8")
    section = text[
        text.index("generate_data.py teacher=local teacher.base_url=http://127.0.0.1:8000/v1 teacher.model=NAME num") :
    ]
    lines = ("python " + section).split("\n\n")[0].splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def test_both_readmes_have_the_same_tour() -> None:
    assert commands("README.md") == commands("README.zh.md")
    scripts = [words[1] for words in commands("README.md")]
    assert list(dict.fromkeys(scripts)) == list(SHRUNK) and scripts.count("infer.py") == 1 + len(SERVERS)


@pytest.mark.slow
def test_every_command_of_the_tour_runs(tmp_path: Path) -> None:
    server = Teacher(tmp_path, made_rows(400), {})
    env = os.environ | {"PYTHONPATH": str(ROOT), "ALPACA_CACHE": str(tmp_path / "cache")}
    try:
        for _, script, *words in commands("README.md"):
            given = [w.replace("http://127.0.0.1:8000", server.address) for w in words] + SHRUNK[script]
            if server_kind := SERVERS.keys() & set(given):
                ask_and_stop(script, given, *SERVERS[server_kind.pop()], cwd=tmp_path, env=env)
                continue
            done = forks.run([str(ROOT / script), *given], tmp_path, env)
            assert done.returncode == 0, f"{script} {given}\n{done.stderr[-3000:]}"
    finally:
        server.process.kill()
        server.process.wait()
    left = {"rows.jsonl", "run", "evaluation", "model.gguf"}
    assert left <= {p.name for p in (tmp_path / "tour").iterdir()}


def ask_and_stop(script: str, words: list[str], port: str, path: str, cwd: Path, env: dict[str, str]) -> None:
    """Start a command that serves, get a page from the address it prints, and end it."""
    started = forks.Forked([str(ROOT / script), *words, port], cwd, env)
    end = time.monotonic() + 120
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+(/v1)?(?=[/\s])", started.stderr)):
            assert started.poll() is None and time.monotonic() < end, started.stderr
            time.sleep(0.05)
        with urllib.request.urlopen(found[0] + path, timeout=60) as reply:
            assert reply.status == 200 and "run" in reply.read().decode()
    finally:
        started.terminate()
        started.wait(60)
