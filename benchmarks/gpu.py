"""python benchmarks/gpu.py: training steps of real sizes on one GPU, with random weights and nothing downloaded.

Batches have the lengths of Alpaca's rows. Each case takes the plain padded way and the fast one on the same rows, the
fast one with Liger's kernels as well, and with compiled layers where --ways names them: real tokens a second, share of the card's own measured
matrix-product rate (operations of the model on real tokens, the output layer only at labels), peak memory beside the
planner's estimate, and how far the hidden states at the labels are from the plain way's, beside how far those are that
the plain way finds for one row at a time. A step is 128 rows: its micro-batches and one step of the optimiser, timed apart. What does
not fit, is not installed or would go past --minutes is said and left out. `--shrink` runs every case tiny, on any device.
"""

import argparse
import contextlib
import gc
import json
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import gpu_models, record  # noqa: E402
from benchmarks.gpu_models import Case  # noqa: E402

SECONDS, MAKING = 4.0, 1.0
"""Seconds of timed micro-batches of a way; assumed for making 10^9 parameters."""
ALPACA_TOKENS = 3 * 52_002 * 126.92
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
NO_GPU = "it needs a GPU"
COLUMNS = ["case", "way", "rows", "real tokens/s", "of the matrix rate", "peak GiB", "planned GiB"]
COLUMNS += ["hours for 3 epochs of Alpaca", "hidden states away (rows one at a time)"]


def matrix_rate(device: Any, shrink: bool) -> float:
    """Operations a second of a large bf16 matrix product on this device."""
    import torch

    size, count = (256, 3) if shrink else (8192, 30)
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2 * size**3 / (timed(lambda: [a @ b for _ in range(count)], device) / count)


def timed(work: Callable[[], Any], device: Any) -> float:
    """Seconds until the device has done it."""
    start = moment(device)
    work()
    return moment(device) - start


def moment(device: Any) -> float:
    """The time at which the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Bench:
    """A case on a device: its model, its optimiser and the ways of it that were measured."""

    def __init__(self, case: Case, shrink: bool, device: Any, rate: float) -> None:
        import torch

        from alpaca.forward import Forward

        self.case, self.shrink, self.device, self.rate = case, shrink, device, rate
        self.expected: Any = None
        self.usual = 0.0
        self.config = gpu_models.settings(case, shrink)
        self.model = gpu_models.build(case, self.config, device)
        self.forward = Forward(self.model, max(n for n, _ in gpu_models.LENGTHS))
        self.optimizer = gpu_models.optimizer_of(case, self.model, device)
        self.one = torch.ones((), device=device)
        self.vocabulary = self.config.model.architecture["vocab_size"]
        self.checks = self.batches(2, 2)
        self.lines: list[list[str]] = []
        self.notes: list[str] = []

    def batches(self, micro: int, count: int = 4) -> list[dict[str, Any]]:
        return gpu_models.batches(micro, self.vocabulary, count, self.device)

    def autocast(self) -> Any:
        import torch

        plain = self.case.weights != "float32" and self.case.method == "full"
        return contextlib.nullcontext() if plain else torch.autocast(self.device.type, torch.bfloat16)

    def prepare(self, way: str) -> str:
        """Make the model ready for a way; why it cannot be, or nothing."""
        from importlib.util import find_spec

        from alpaca import compiling, forward_check, liger

        if "," in way and self.device.type != "cuda":
            return NO_GPU
        if way == "fast":
            turned = self.checks[0] | {"input_ids": self.checks[0]["input_ids"].clone()}
            first = turned["lengths"][0]
            turned["input_ids"][0, :first] = turned["input_ids"][0, :first].flip(0)
            forward_check.choose(self.forward, self.model, [self.checks[0], turned], self.autocast, lambda yes: yes)
        for layer in compiling.layers(self.model) if self.forward.compiled else ():
            layer._compiled_call_impl = None  # as it was
        self.forward.compiled = way == "fast, compiled"
        if way == "fast, Liger":  # it changes classes too: nothing may come after it
            if find_spec("liger_kernel") is None:
                return "liger-kernel is not installed"
            return liger.apply(self.model)
        if way == "fast, compiled":
            compiling.compile_layers(self.model, compiling.Compiler())
        return ""

    def loss(self, way: str, batch: dict[str, Any]) -> Any:
        """The mean loss of a flat batch, or of a padded one in the plain way."""
        from alpaca.forward import plain_loss

        with self.autocast():
            if way == "plain":
                return plain_loss(self.model, batch, self.one * len(batch["label_index"])).total
            return self.forward(self.model, batch, self.one * len(batch["targets"])).total

    def micro_batch(self, way: str, batch: dict[str, Any], flat: dict[str, Any]) -> None:
        """Forward and backward pass."""
        with self.forward.drawing(flat) if way != "plain" else contextlib.nullcontext():
            self.loss(way, batch).backward()

    def hidden(self, way: str, batch: dict[str, Any]) -> Any:
        """What the output layer is given at the labels, fp32 (labels, width), nothing dropped."""
        import torch

        seen = []
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        handle = base.get_output_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
        self.model.eval()
        with torch.no_grad():
            self.loss(way, batch)
        self.model.train()
        handle.remove()
        return seen[0].flatten(0, 1)[batch["label_index"]].float()

    def away(self, way: str) -> str:
        """Relative distance of the hidden states at the labels from the plain way's (that of rows one at a time)."""
        import torch

        from alpaca.forward import padded

        flat = self.checks[1]
        if self.expected is None:
            batch = padded(flat)
            self.expected = self.hidden("plain", batch)
            rows = zip(flat["lengths"], batch["input_ids"], batch["labels"], strict=True)
            alone = [self.hidden("plain", one_row(ids[:n], labels[:n])) for n, ids, labels in rows]
            self.usual = distance(torch.cat(alone), self.expected)
        if way == "plain":
            return "–"
        return f"{distance(self.hidden(way, flat), self.expected):.1e} ({self.usual:.1e})"

    def measure(self, way: str, seconds: float) -> None:
        """Add the line of a way, at the most rows that fit."""
        import torch

        if reason := self.prepare(way):
            if reason != NO_GPU:
                self.notes.append(f"{self.case.name}, {way}, was left out: {reason}.")
            return
        micro = 2 if self.shrink else self.case.micro
        while micro:
            try:
                self.lines.append(self.line(way, micro, seconds))
                return
            except torch.cuda.OutOfMemoryError:
                pass
            self.optimizer.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()
            micro //= 2
        self.lines.append([self.case.name, way, "–", "out of memory", *["–"] * 5])

    def line(self, way: str, micro: int, seconds: float) -> list[str]:
        import torch

        from alpaca.forward import padded

        flat = self.batches(micro)
        data = [padded(b) if way == "plain" else b for b in flat]
        order = sorted(range(len(data)), key=lambda i: -flat[i]["input_ids"].numel())
        for i in order[:2]:  # the largest first: its memory serves the others
            self.micro_batch(way, data[i], flat[i])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        one = timed(lambda: self.micro_batch(way, data[order[0]], flat[order[0]]), self.device)
        places = [i % len(data) for i in range(max(2, min(24, int(seconds / one))))]
        spent = timed(lambda: [self.micro_batch(way, data[i], flat[i]) for i in places], self.device)
        self.optimizer.step()
        step = timed(self.optimizer.step, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if self.device.type == "cuda" else "–"
        spent += step * len(places) * micro / gpu_models.GLOBAL
        tokens = sum(flat[i]["input_ids"].numel() for i in places)
        needed = sum(gpu_models.operations(self.case, self.config, self.model, flat[i]) for i in places)
        result = [self.case.name, way, str(micro), f"{tokens / spent:,.0f}", f"{needed / spent / self.rate:.0%}", peak]
        expected = "–" if "," in way else planned(self.case, self.config, flat, fast=way != "plain")
        return [*result, expected, f"{ALPACA_TOKENS / (tokens / spent) / 3600:.2f}", self.away(way)]

    def look(self, way: str) -> None:
        """Note what the device does in a micro-batch, and how often the host waits for it."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        from alpaca.forward import padded

        batch = self.batches(int(self.lines[-1][2]), 1)[0]
        given = padded(batch) if way == "plain" else batch

        def work() -> None:
            self.micro_batch(way, given, batch)

        work()
        if self.device.type == "cuda":
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                work()
                self.optimizer.step()
                torch.cuda.set_sync_debug_mode("default")
            waits = [w for w in found if "synchroniz" in str(w.message).lower()]
            places = {f"{Path(w.filename).name}:{w.lineno}" for w in waits}
            self.notes.append(f"{self.case.name}, {way}: the host waits {len(waits)} times in a step {sorted(places)}.")
        wall = timed(work, self.device)
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
        with profile(activities=kinds) as seen:
            timed(work, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        cuda = self.device.type == "cuda"
        kernels = [
            (e.key, (e.self_device_time_total if cuda else e.self_cpu_time_total) / 1e3, e.count)
            for e in seen.key_averages()
            if not cuda or ("cuda" in str(e.device_type).lower() and not e.is_user_annotation)
        ]
        busy = sum(ms for _, ms, _ in kernels)
        rows = [[f"`{k[:90]}`", f"{ms:.2f}", str(n)] for k, ms, n in sorted(kernels, key=lambda k: -k[1])[:18]]
        about = f"{self.case.name}, {way}: a micro-batch takes {wall * 1e3:.1f} ms, its kernels {busy:.1f} ms."
        self.notes.append(about + "\n\n" + record.table(["kernel", "ms", "calls"], rows))


def distance(found: Any, expected: Any) -> float:
    """Relative to the size of what is expected."""
    return float((found - expected).norm() / expected.norm())


def one_row(ids: Any, labels: Any) -> dict[str, Any]:
    """A batch of one row, without padding."""
    import torch

    index = (labels[1:] != -100).nonzero().flatten()
    mask = torch.ones_like(ids)
    rows = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {k: v.unsqueeze(0) for k, v in rows.items()} | {"label_index": index}


def planned(case: Case, config: Any, data: list[dict[str, Any]], fast: bool) -> str:
    """GiB that the planner says for this config and these batches, in the fast way or in the plain one."""
    import dataclasses

    from alpaca import model as base_model
    from alpaca import planning
    from alpaca.config import TrainingConfig
    from alpaca.plan_report import Planner

    if case.method == "full" and case.weights != "float32":
        return "–"  # train.py keeps what it trains in fp32
    rows = len(data[0]["lengths"])
    batch = dataclasses.replace(config.batch, per_device=rows)
    config = dataclasses.replace(config, training=TrainingConfig(fast=fast), batch=batch)
    longest = max(max(b["lengths"]) for b in data)
    tokens = [sum(b["lengths"]) if fast else max(b["lengths"]) * rows for b in data]
    with_loss = max(len(b["targets"]) for b in data) / max(tokens) * longest
    mean = sum(tokens) / len(data) / rows
    found = planning.Rows(52_002, longest, round(with_loss), mean, True, max(tokens) / (rows * longest))
    try:
        needed = Planner(base_model.from_yaml(config.model.architecture), lambda c: found, 3.0).memory(config)
    except Exception as error:  # of a version that was not tried: what was measured is worth having
        return type(error).__name__
    return f"{needed.peak / 2**30:.1f}"


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
