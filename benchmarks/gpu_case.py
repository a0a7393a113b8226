"""One case of `gpu.py` on a device: the ways of a training step, their time, memory and distance from the plain one."""

import contextlib
import gc
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import gpu_models, record  # noqa: E402
from benchmarks.gpu_models import Case  # noqa: E402

ALPACA_TOKENS = 3 * 52_002 * gpu_models.MEAN_TOKENS
COLUMNS = ["case", "way", "batches, loss", "rows", "real tokens/s", "of the matrix rate", "peak GiB", "planned GiB"]
COLUMNS += ["hours for 3 epochs of Alpaca", "loss (plain)", "hidden states away (rows one at a time)"]
ROWS = COLUMNS.index("rows")


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
        self.usual = self.expected_loss = 0.0
        self.chosen = False
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

        from alpaca import compiling, liger

        if way == "fast, Liger" and find_spec("liger_kernel") is None:
            return "liger-kernel is not installed"
        for layer in compiling.layers(self.model) if self.forward.compiled else ():
            layer._compiled_call_impl = None  # as it was
        self.forward.compiled = False
        if way != "plain" and not self.chosen:  # where it raises, the way is left out, and the next one tries again
            self.choose()
        self.forward.compiled = way == "fast, compiled"
        if way == "fast, Liger":  # it changes classes too: nothing may come after it
            return liger.apply(self.model)
        if way == "fast, compiled":
            compiling.compile_layers(self.model, compiling.Compiler())
        return ""

    def choose(self) -> None:
        """Find the way that `fast` is for this model, as train.py does before its first step."""
        from alpaca import forward_check

        turned = self.checks[0] | {"input_ids": self.checks[0]["input_ids"].clone()}
        first = turned["lengths"][0]
        turned["input_ids"][0, :first] = turned["input_ids"][0, :first].flip(0)
        longest = max(b["input_ids"].numel() for b in self.batches(2 if self.shrink else self.case.micro))
        examples = [self.checks[0], turned]
        forward_check.choose(self.forward, self.model, examples, self.autocast, lambda yes: yes, tokens=longest)
        self.chosen = True
        if self.forward.way.layout == "padded" or self.forward.way.head != "chunked":
            self.notes.append(f"{self.case.name}: its fast way is {self.forward.way}, for {self.forward.reason}.")

    def took(self, way: str) -> str:
        """What the batches of a way look like and how their loss is taken, short."""
        return "padded, transformers' own" if way == "plain" else f"{self.forward.way.layout}, {self.forward.way.head}"

    def loss(self, way: str, batch: dict[str, Any]) -> Any:
        """The mean loss over the labels of a flat batch; in the plain way of a padded one, as transformers takes it."""
        with self.autocast():
            if way == "plain":
                inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
                return self.model(**inputs, use_cache=False).loss
            return self.forward(self.model, batch, self.one * len(batch["targets"])).total

    def micro_batch(self, way: str, batch: dict[str, Any], flat: dict[str, Any]) -> None:
        """Forward and backward pass."""
        with self.forward.drawing(flat) if way != "plain" else contextlib.nullcontext():
            self.loss(way, batch).backward()

    def hidden(self, way: str, batch: dict[str, Any]) -> tuple[Any, float]:
        """What the output layer is given at the labels, fp32 (labels, width), and the mean loss; nothing dropped."""
        import torch

        seen = []
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        handle = base.get_output_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
        self.model.eval()
        with torch.no_grad():
            loss = float(self.loss(way, batch))
        self.model.train()
        handle.remove()
        return seen[0].flatten(0, 1)[batch["label_index"]].float(), loss

    def expect(self) -> None:
        """What the plain way finds for two rows, and for each of them alone; to be asked before anything is exchanged."""
        import torch

        from alpaca.forward import padded

        flat = self.checks[1]
        batch = padded(flat)
        rows = zip(flat["lengths"], batch["input_ids"], batch["labels"], strict=True)
        alone = [self.hidden("plain", one_row(ids[:n], labels[:n]))[0] for n, ids, labels in rows]
        expected, self.expected_loss = self.hidden("plain", batch)
        self.usual = distance(torch.cat(alone), expected)
        self.expected = expected

    def away(self, way: str) -> list[str]:
        """The loss (the plain way's), and the relative distance of the hidden states at the labels from the plain way's
        (that of rows one at a time)."""
        if way == "plain":
            return [f"{self.expected_loss:.4f}", "–"]
        found, loss = self.hidden(way, self.checks[1])
        away = f"{distance(found, self.expected):.1e} ({self.usual:.1e})"
        return [f"{loss:.4f} ({self.expected_loss:.4f})", away]

    def measure(self, way: str, seconds: float) -> None:
        """Add the line of a way, at the most rows that fit."""
        import torch

        if self.expected is None:
            self.expect()
        no_gpu = "," in way and self.device.type != "cuda"
        if reason := "it needs a GPU" if no_gpu else self.prepare(way):
            self.notes.append(f"{self.case.name}, {way}, was left out: {reason}.")
            return
        micro = 2 if self.shrink else self.case.micro
        while micro:
            try:
                self.lines.append(self.line(way, micro, seconds))
                return
            except torch.cuda.OutOfMemoryError:
                pass
            self.free()
            micro //= 2
        self.lines.append([self.case.name, way, self.took(way), "–", "out of memory", *["–"] * 6])

    def free(self) -> None:
        """Give back what a way that failed had taken."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def line(self, way: str, micro: int, seconds: float) -> list[str]:
        import torch

        from alpaca.forward import padded

        flat = self.batches(micro)
        data = [padded(b) if way == "plain" else b for b in flat]
        order = sorted(range(len(data)), key=lambda i: -flat[i]["input_ids"].numel())
        for i in order:  # the largest first: its memory serves the others
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
        result = [self.case.name, way, self.took(way), str(micro), f"{tokens / spent:,.0f}"]
        result += [f"{needed / spent / self.rate:.0%}", peak]
        expected = "–" if "," in way else planned(self.case, self.config, flat, fast=way != "plain")
        return [*result, expected, f"{ALPACA_TOKENS / (tokens / spent) / 3600:.2f}", *self.away(way)]

    def look(self, way: str) -> None:
        """Note what the device does in a micro-batch, and how often the host waits for it."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        from alpaca.forward import padded

        batch = self.batches(int(self.lines[-1][ROWS]), 1)[0]
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
