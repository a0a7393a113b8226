"""What tests of several processes need: a tiny run's settings, starting it, waiting for a step, and its workers."""

import json
import os
import time
from pathlib import Path

from torch.distributed import TCPStore

from tests.commands import ROOT
from tests.forks import Forked

COMMON = [
    "data.limit=45",
    "data.validation=3",
    "prompt=alpaca_short",
    "max_length=96",
    "batch.global_size=8",
    "batch.per_device=2",
    "trainer.num_train_epochs=2",
    "trainer.save_steps=2",
    "trainer.learning_rate=1e-2",
    "check_saved=false",
    "model.vocab_size=400",
    "model.architecture.hidden_size=32",
    "model.architecture.num_attention_heads=2",
    "model.architecture.num_hidden_layers=2",
]
OPT = ["model=tiny_opt", *COMMON, "model.architecture.word_embed_proj_dim=32", "model.architecture.ffn_dim=64"]
LLAMA = [
    "model=tiny_llama",
    *COMMON,
    "model.architecture.num_key_value_heads=2",
    "model.architecture.intermediate_size=64",
]
STEPS = 12
"""42 rows in steps of 8 make 6 steps an epoch, the last one of 2 rows: one process of two has none of them."""


def start(*words: str) -> Forked:
    """train.py, as a user starts it."""
    return Forked(["train.py", *words], ROOT)


def together(count: int, *words: str, seconds: float = 500) -> str:
    """What torchrun would start, forked: `count` processes of a command in its environment; what they said."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun's agent keeps one
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    own = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(count)]
    running = [Forked([*words], ROOT, os.environ | {k: str(v) for k, v in mine.items()}) for mine in own]
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end and None in (codes := [p.poll() for p in running]) and not any(codes):
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()
    said = "".join(process.communicate()[1] for process in running)
    assert not any(p.returncode for p in running), said[-6000:]
    return said


def wait_for_step(folder: Path, step: int, process: Forked) -> None:
    while process.poll() is None:
        if (folder / "metrics.jsonl").is_file() and len((folder / "metrics.jsonl").read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run ended before step {step}: {process.communicate()[1][-3000:]}")


def workers(folder: Path, script: str = "alpaca.worker", mark: str | None = None) -> dict[int, int]:
    """Rank -> pid of the workers of a run folder, from /proc; `mark`: the word that names it, where it is another."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_text().split("\0")
            if script in words and (mark or str(folder)) in words and (place / "stat").read_text().split()[2] != "Z":
                environment = dict(line.split("=", 1) for line in (place / "environ").read_text().split("\0") if line)
                found[int(environment["RANK"])] = int(place.name)
        except (OSError, ValueError, KeyError):  # gone meanwhile, or torchrun itself
            continue
    return found


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def differ(ours: Path, theirs: Path, late: bool = False) -> float:
    """Largest difference of a loss, an evaluation loss or a gradient norm; steps and token counts must be the same.

    late: ours may be resumed from another run's checkpoint, and lacks the steps before it.
    """
    lines = metrics(ours)
    others = [m for m in metrics(theirs) if not late or m["step"] >= lines[0]["step"]]
    pairs = list(zip(lines, others, strict=True))
    assert [(a["step"], a["tokens"]) for a, _ in pairs] == [(b["step"], b["tokens"]) for _, b in pairs]
    names = ("loss", "eval_loss", "grad_norm")
    return max(abs(a[n] - b[n]) for a, b in pairs for n in names if n in a or n in b)
