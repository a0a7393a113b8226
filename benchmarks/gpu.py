"""python benchmarks/gpu.py: training steps of real sizes on one GPU, with random weights and nothing downloaded.

Batches have the lengths of Alpaca's rows. Each case takes the plain padded way and the fast one on the same rows, the
fast one with Liger's kernels too, and with compiled layers where --ways names them: real tokens a second, share of the
card's own measured matrix-product rate (operations of the model on real tokens, the output layer only at labels), peak
memory beside the planner's estimate, and how far the hidden states at the labels are from the plain way's, beside how
far those are that the plain way finds for one row at a time. A step is 128 rows: its micro-batches and one step of the
optimiser, timed apart. What does not fit, is not installed or would go past --minutes is said and left out. `--shrink`
runs every case tiny, on any device.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import record  # noqa: E402
from benchmarks.gpu_case import COLUMNS, Bench, matrix_rate  # noqa: E402
from benchmarks.gpu_models import Case  # noqa: E402

SECONDS, MAKING = 4.0, 1.0
"""Seconds of timed micro-batches of a way; assumed for making 10^9 parameters."""
CASES = [
    Case("LLaMA-7B LoRA", "llama7b", "lora", "bfloat16", 32),
    Case("LLaMA-7B full, bf16 weights", "llama7b", "full", "bfloat16", 32),
    Case("LLaMA-7B full, fp32 master weights", "llama7b", "full", "float32", 16),
    Case("LLaMA-7B QLoRA", "llama7b", "qlora", "bfloat16", 16, True),
    Case("OPT-6.7B LoRA", "opt6.7b", "lora", "bfloat16", 32),
    Case("LLaMA-65B QLoRA", "llama65b", "qlora", "bfloat16", 8, True),
    Case("LLaMA-13B QLoRA", "llama13b", "qlora", "bfloat16", 16, True),
]
WAYS = ("plain", "fast", "fast, compiled", "fast, Liger")


def missing(case: Case, device: Any, arguments: argparse.Namespace, left: float) -> str:
    """Why a case cannot be tried here, or nothing. `left`: seconds until --minutes are over."""
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
    if left < (0.0 if arguments.shrink else MAKING * case.billions + SECONDS):
        return f"--minutes {arguments.minutes:g} are over"
    return ""


def run(case: Case, arguments: argparse.Namespace, seconds: float, tell: Callable[[str, Any], None]) -> None:
    """Measure a case in this process; `tell` takes ("rate", TFLOP/s), ("line", cells) and ("note", text) as they come."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    end = time.monotonic() + seconds
    if reason := missing(case, device, arguments, seconds):
        tell("note", f"{case.name} was left out: {reason}.")
        return
    rate = matrix_rate(device, arguments.shrink)
    tell("rate", rate / 1e12)
    bench = Bench(case, arguments.shrink, device, rate)
    for way in arguments.ways:
        if time.monotonic() + 2 * SECONDS > end and not arguments.shrink:
            tell("note", f"{case.name}, {way}, was left out: --minutes {arguments.minutes:g} are over.")
            continue
        try:
            bench.measure(way, SECONDS)
            if arguments.profile and bench.lines and bench.lines[0][2] != "–":
                bench.look(way)
        except Exception as error:  # of a version that was not tried: the other ways are worth having
            if arguments.shrink:
                raise
            traceback.print_exc()
            words = str(error).splitlines() or [""]
            tell("note", f"{case.name}, {way}, was left out: {type(error).__name__}: {words[0][:200]}.")
        for kind, found in (("line", bench.lines), ("note", bench.notes)):
            for one in found:
                tell(kind, one)
            found.clear()


def apart(case: Case, words: list[str], seconds: float, tell: Callable[[str, Any], None]) -> None:
    """Measure a case in a process of its own: Liger's kernels and compiled layers stay there, and so does what fails."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "found.jsonl")
        command = [sys.executable, __file__, *words, "--case", case.name, "--seconds", str(seconds)]
        try:
            done = subprocess.run([*command, "--result", str(result)], timeout=seconds + 30, check=False)
            fault = f"it ended with exit code {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            fault = "it took too long"
        for line in result.read_text().splitlines() if result.exists() else ():
            tell(*json.loads(line))
        if fault:
            tell("note", f"{case.name} was broken off: {fault}.")


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
    import torch

    if not torch.cuda.is_available() and not arguments.shrink:
        sys.exit("there is no CUDA device: --shrink runs every case tiny on the CPU")
    if arguments.case:
        case = next(c for c in CASES if c.name == arguments.case)
        with open(arguments.result, "w", buffering=1) as file:
            run(case, arguments, float(arguments.seconds), lambda kind, one: print(json.dumps([kind, one]), file=file))
        return
    started = time.monotonic()
    found: dict[str, list[Any]] = {"rate": [], "line": [], "note": []}

    def tell(kind: str, one: Any) -> None:
        found[kind].append(one)
        if kind == "line":
            print(f"{time.monotonic() - started:.0f} s: {' | '.join(one)}", file=sys.stderr, flush=True)

    for case in CASES:
        if arguments.only and not any(part in case.name for part in arguments.only):
            continue
        seconds = 60 * arguments.minutes - (time.monotonic() - started)
        if arguments.shrink:
            run(case, arguments, seconds, tell)
        elif seconds > 0:
            apart(case, words, seconds, tell)
        else:
            tell("note", f"{case.name} was left out: --minutes {arguments.minutes:g} are over.")
    rates = [f"{rate:.1f}" for rate in found["rate"]]
    about = f"A large bf16 matrix product runs at {', '.join(rates)} TFLOP/s here (before each case)."
    body = "\n\n".join([about, record.table(COLUMNS, found["line"]), *found["note"]])
    title = "One GPU, random weights" + (" (shrunk: no measurement)" if arguments.shrink else "")
    target = "none" if arguments.shrink else arguments.record
    record.section(title, body, target, ("torch", "transformers", "peft", "bitsandbytes", "liger-kernel"))


if __name__ == "__main__":
    main()
