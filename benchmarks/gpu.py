"""python benchmarks/gpu.py: training steps of real sizes on one GPU, with random weights and nothing downloaded.

Batches have the lengths of Alpaca's rows. Each case takes the plain way (padded, the loss that transformers takes of
`labels=`) and the fast one on the same rows, the fast one with Liger's kernels too, and with compiled layers where --ways
names them: how the fast one goes for this model, real tokens a second, share of the card's own measured matrix-product
rate (operations of the model on real tokens, the output layer only at labels), peak memory beside the planner's estimate
for train.py, the loss beside the plain one, and how far the hidden states at the labels are from the plain way's, beside
how far those are that the plain way finds for one row at a time. A step is 128 rows: its micro-batches and one step of
the optimiser, timed apart. What does not fit, is not installed or would go past --minutes is said and left out: each case
is a process with its share of them, and the table is written anew with every line. `--shrink` runs every case tiny, on
any device; it writes no file but one named by --record.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import record  # noqa: E402
from benchmarks.gpu_case import COLUMNS, ROWS, Bench, matrix_rate  # noqa: E402
from benchmarks.gpu_models import Case  # noqa: E402

SECONDS, MAKING, START = 4.0, 1.0, 10.0
"""Seconds of timed micro-batches of a way; assumed for making 10^9 parameters; assumed for imports."""
SPARE = 0.2
"""Share of a case's seconds in which no new way is begun."""
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "liger-kernel")
Tell = Callable[[str, Any], None]
"""Takes ("rate", TFLOP/s), ("line", cells), ("note", text) and ("fault", text) as they come."""
CASES = [
    Case("LLaMA-7B LoRA", "llama7b", "lora", "bfloat16", 32),
    Case("LLaMA-7B full, bf16 weights", "llama7b", "full", "bfloat16", 32),
    Case("LLaMA-7B full, fp32 master weights", "llama7b", "full", "float32", 16),
    Case("LLaMA-7B QLoRA", "llama7b", "qlora", "bfloat16", 64, True),
    Case("OPT-6.7B LoRA", "opt6.7b", "lora", "bfloat16", 32),
    Case("LLaMA-65B QLoRA", "llama65b", "qlora", "bfloat16", 16, True),
    Case("LLaMA-13B QLoRA", "llama13b", "qlora", "bfloat16", 64, True),
]
WAYS = ("plain", "fast", "fast, compiled", "fast, Liger")


def missing(case: Case, device: Any, arguments: argparse.Namespace) -> str:
    """Why a case cannot be tried here, or nothing."""
    from importlib.util import find_spec

    needs = {"full": (), "lora": ("peft",), "qlora": ("peft", "bitsandbytes")}[case.method]
    if absent := [name for name in needs if find_spec(name) is None]:
        return f"{' and '.join(absent)} not installed"
    if device.type == "cuda" and not arguments.shrink:
        import torch

        room = torch.cuda.get_device_properties(device).total_memory
        bytes_each = {"full": 16 if case.weights == "float32" else 8, "lora": 2.1, "qlora": 0.65}[case.method]
        if case.billions * 1e9 * bytes_each > 0.95 * room:
            least = case.billions * 1e9 * bytes_each / 2**30
            return f"needs {least:.0f} GiB for weights, gradients and optimiser state alone"
    return ""


def least(case: Case, arguments: argparse.Namespace) -> float:
    """Seconds without which a case is not begun."""
    return 0.0 if arguments.shrink else START + MAKING * case.billions + SECONDS


def usual(case: Case, arguments: argparse.Namespace) -> float:
    """Seconds that a case would like to have, beside those of the others."""
    return START + MAKING * case.billions + 3 * SECONDS * len(arguments.ways)


def run(case: Case, arguments: argparse.Namespace, seconds: float, tell: Tell) -> None:
    """Measure a case in this process, and begin no way when fewer than two of SECONDS are left of its `seconds`."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    end = time.monotonic() + seconds
    rate = matrix_rate(device, arguments.shrink)
    tell("rate", rate / 1e12)
    bench = None
    with told(case.name, tell):
        bench = Bench(case, arguments.shrink, device, rate)
    for way in arguments.ways if bench else ():
        if time.monotonic() + 2 * SECONDS > end and not arguments.shrink:
            tell("note", f"{case.name}, {way}, was left out: the case's share of --minutes was over.")
            continue
        with told(f"{case.name}, {way}", tell):
            bench.measure(way, SECONDS)
            if arguments.profile and bench.lines and bench.lines[0][ROWS] != "–":
                bench.look(way)
        bench.free()
        for kind, found in (("line", bench.lines), ("note", bench.notes)):
            for one in found:
                tell(kind, one)
            found.clear()


@contextmanager
def told(name: str, tell: Tell) -> Iterator[None]:
    """What fails, out of memory or in a version that was not tried, is told: the other ways and cases are worth having."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        words = str(error).splitlines() or [""]
        tell("fault", f"{name} was left out: {type(error).__name__}: {words[0][:200]}.")


def apart(case: Case, words: list[str], seconds: float, tell: Tell) -> None:
    """Measure a case in a process of its own, ended after `seconds`; each line is told as soon as it is there.

    Liger's kernels and compiled layers stay in the process, and so does what fails.
    """
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "found.jsonl")
        result.touch()
        command = [sys.executable, __file__, *words, "--case", case.name, "--seconds", str((1 - SPARE) * seconds)]
        child = subprocess.Popen([*command, "--result", str(result)], stdout=sys.stderr, start_new_session=True)
        try:
            with result.open() as lines:
                running = True
                while running:
                    running = child.poll() is None and time.monotonic() < end
                    while line := whole_line(lines):
                        tell(*json.loads(line))
                    time.sleep(0.1 if running else 0)
            if child.poll() is None:
                tell("fault", f"{case.name} was broken off: its {seconds:.0f} s of --minutes were over.")
            elif child.returncode:
                tell("fault", f"{case.name} was broken off: it ended with exit code {child.returncode}.")
        finally:  # whatever ends this process ends the child, and what it started
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def whole_line(file: Any) -> str:
    """The next line if all of it was written, else nothing and the file as it was."""
    place = file.tell()
    line: str = file.readline()
    if line.endswith("\n"):
        return line
    file.seek(place)
    return ""


class Table:
    """What was found so far; written with every line, so that a run that is cut off leaves what it had measured."""

    def __init__(self, title: str, target: str, cases: list[Case]) -> None:
        self.title, self.target, self.waiting = title, target, [case.name for case in cases]
        self.rates: list[float] = []
        self.lines: list[list[str]] = []
        self.notes: list[str] = []
        self.faults = 0
        self.started = time.monotonic()

    def tell(self, kind: str, one: Any) -> None:
        """Take one thing that a case tells (`Tell`)."""
        {"rate": self.rates, "line": self.lines, "note": self.notes, "fault": self.notes}[kind].append(one)
        self.faults += kind == "fault"
        if kind != "rate":
            words = " | ".join(one) if kind == "line" else one.partition("\n")[0]
            print(f"{time.monotonic() - self.started:.0f} s: {words}", file=sys.stderr, flush=True)
        if kind == "line":
            self.write(quiet=True)

    def write(self, quiet: bool = False) -> None:
        """Put the section into its file; print it too, unless `quiet`."""
        rates = ", ".join(f"{rate:.1f}" for rate in self.rates)
        about = f"A large bf16 matrix product runs at {rates} TFLOP/s here (before each case)."
        open_ones = [f"Cut off before the end of: {', '.join(self.waiting)}."] if self.waiting else []
        body = "\n\n".join([about, record.table(COLUMNS, self.lines), *self.notes, *open_ones])
        record.section(self.title, body, self.target, PACKAGES, quiet=quiet)


def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--shrink", action="store_true", help="tiny models, to see that everything runs")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the cases to run")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=[w for w in WAYS if w != "fast, compiled"])
    parser.add_argument("--profile", action="store_true", help="what the device does in a micro-batch of each way")
    for name in ("--case", "--result", "--seconds"):  # of a process for one case
        parser.add_argument(name, help=argparse.SUPPRESS)
    record.option(parser)
    arguments = parser.parse_args(words)
    arguments.ways = [way for way in WAYS if way in arguments.ways]  # what a way exchanges, no earlier one has
    import torch

    if not torch.cuda.is_available() and not arguments.shrink:
        sys.exit("there is no CUDA device: --shrink runs every case tiny on the CPU")
    if arguments.case:
        case = next(c for c in CASES if c.name == arguments.case)
        with open(arguments.result, "a", buffering=1) as file:
            run(case, arguments, float(arguments.seconds), lambda kind, one: print(json.dumps([kind, one]), file=file))
        return
    wanted = [c for c in CASES if not arguments.only or any(part in c.name for part in arguments.only)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    title = "One GPU, random weights" + (" (shrunk: no measurement)" if arguments.shrink else "")
    unasked = arguments.shrink and arguments.record == str(record.RESULTS)
    table = Table(title, "none" if unasked else arguments.record, wanted)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("cut off"))
    try:
        for case in wanted:
            if reason := missing(case, device, arguments):
                table.waiting.remove(case.name)
                table.tell("note", f"{case.name} was left out: {reason}.")
        for case in [c for c in wanted if c.name in table.waiting]:
            left = 60 * arguments.minutes - (time.monotonic() - table.started)
            others = sum(usual(c, arguments) for c in wanted if c.name in table.waiting)
            seconds = left * usual(case, arguments) / others
            if seconds < max(1.0, least(case, arguments)):
                table.tell(
                    "note", f"{case.name} was left out: {max(0.0, seconds):.0f} s of --minutes were left for it."
                )
            else:
                apart(case, words, seconds, table.tell)
            table.waiting.remove(case.name)
    finally:
        table.write()
        signal.signal(signal.SIGTERM, before)
    if arguments.shrink and table.faults:
        sys.exit(f"{table.faults} of the cases and ways failed")


if __name__ == "__main__":
    main()
