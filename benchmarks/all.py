"""python benchmarks/all.py: every benchmark of this machine's processors, one after the other, into RESULTS.md.

Wanted is a quiet machine; how busy it was before is said. One that fails is said at the end, the others run all the
same. `--shrink` runs each on a few rows, to see that it works: nothing is recorded then.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import record  # noqa: E402

SMALL = '{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}'
FEW = ["--micro", "4", "--global-size", "8", "--rows", "24", "--skip", "1"]


def commands(run: str) -> list[tuple[list[str], list[str] | None]]:
    """(command, what is added for --shrink; null: left out then). `run`: where the model for inference is trained."""
    quick = ["trainer.num_train_epochs=1", "data.limit=16", "model.vocab_size=400", "check_saved=false"]
    return [
        (["benchmarks/startup.py"], ["--count", "1", "--more", *quick]),
        (["benchmarks/prepare_data.py"], ["--rows", "500", "--sample", "20"]),
        (["benchmarks/prepare_data.py", "--tokenizer", "opt"], ["--rows", "500", "--sample", "20"]),
        (["benchmarks/dedupe.py", "--many", "500000"], ["--sample", "2", "--rows", "2000", "--many", "2000"]),
        (["benchmarks/generation_overhead.py"], ["--rows", "200"]),
        (["benchmarks/training.py"], [*FEW, "--sizes", SMALL]),
        (["benchmarks/training.py", "--family", "opt", "--micro", "4", "--rows", "384"], FEW),
        (["benchmarks/step_profile.py"], ["--rows", "16"]),
        (["benchmarks/host_time.py"], ["--count", "1"]),
        (["benchmarks/whole_command.py"], None),
        (["train.py", f"hydra.run.dir={run}"], quick),
        (["benchmarks/inference.py", run], ["--prompts", "8", "--new", "4"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the benchmarks to run")
    parser.add_argument("--shrink", action="store_true", help="a few rows each, to see that everything runs")
    record.option(parser)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    if load > 0.5 and not arguments.shrink:
        say(f"this machine is busy (load {load:.1f}): other work changes what is measured")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        run = f"{scratch}/run" if arguments.shrink else "outputs/benchmark"
        failed = work([c for c in commands(run) if chosen(c[0], arguments.only)], arguments, began)
    say(f"all done after {minutes(began)}")
    if failed:
        sys.exit("failed: " + "; ".join(failed))


def chosen(command: list[str], only: list[str]) -> bool:
    return not only or any(part in " ".join(command) for part in only)


def work(wanted: list[tuple[list[str], list[str] | None]], arguments: argparse.Namespace, began: float) -> list[str]:
    """Run the commands; returns those that failed."""
    records = arguments.record != "none" and not arguments.shrink
    target = str(Path(arguments.record).resolve()) if records else "none"
    failed = []
    for number, (command, few) in enumerate(wanted, 1):
        name = f"[{number}/{len(wanted)}] {' '.join(command)}"
        if arguments.shrink and few is None:
            say(f"{name}: left out, it cannot be shrunk")
            continue
        words = [*command, *few] if arguments.shrink and few is not None else list(command)
        if command[0].startswith("benchmarks/"):
            words += ["--record", target]
        say(f"{name} (after {minutes(began)})")
        if subprocess.run([sys.executable, *words], cwd=ROOT).returncode:
            failed.append(name)
    return failed


def minutes(began: float) -> str:
    return f"{(time.monotonic() - began) / 60:.1f} minutes"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
