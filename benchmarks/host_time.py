"""python benchmarks/host_time.py: what the processor does in a micro-batch, however few tokens are in it.

A GPU waits for whoever gives it work. The 32 layers of LLaMA-7B are made so narrow, and the sequence so short, that there
is next to nothing to compute: what is left is Python, autograd and dispatch, in forward and backward pass, on one thread.
Beside it stands how much of a micro-batch a GPU of `--rate` would have computed of the real LLaMA-7B in that time: with
fewer rows it waits.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import gpu_models, record  # noqa: E402
from benchmarks.gpu_models import Case  # noqa: E402

NARROW = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 32,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 100,
}
LINEAR = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
"""Weights of LLaMA-7B's layers."""
WAYS = [(method, again) for method in ("full", "lora", "qlora") for again in (False, True)]


def seconds(method: str, again: bool, count: int) -> tuple[float, int]:
    """Processor seconds of a micro-batch, the least of `count`, and how many layers have an adapter."""
    import torch

    case = Case(method, "llama7b", method, "bfloat16", 1, again)
    config = gpu_models.settings(case, shrink=True)
    config.model.architecture.update(NARROW)
    model = gpu_models.build(case, config, torch.device("cpu"))
    ids = torch.randint(3, NARROW["vocab_size"], (1, 16))

    def work() -> float:
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=method != "full"):
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()
        return time.process_time() - start

    work()
    return min(work() for _ in range(count)), sum(hasattr(module, "lora_A") for module in model.modules())


def rows_meanwhile(spent: float, method: str, again: bool, rate: float) -> float:
    """Rows of Alpaca whose forward and backward pass through LLaMA-7B's layers takes a GPU of `rate` (operations a
    second) that long."""
    passes = (3 if method == "full" else 2) + again
    return spent * rate / (2 * passes * LINEAR) / gpu_models.MEAN_TOKENS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10, help="times each is run; the least counts")
    parser.add_argument("--rate", type=float, default=780.0, help="TFLOP/s of a large bf16 matrix product on the GPU")
    record.option(parser)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    lines: list[list[Any]] = []
    for method, again in WAYS:
        spent, adapters = seconds(method, again, arguments.count)
        rows = rows_meanwhile(spent, method, again, arguments.rate * 1e12)
        lines.append([method, "on" if again else "off", str(adapters or "–"), f"{spent * 1e3:.0f} ms", f"{rows:.0f}"])
        print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    columns = ["method", "checkpointing", "adapted layers", "processor, a micro-batch"]
    columns.append(f"rows of Alpaca that {arguments.rate:g} TFLOP/s compute meanwhile")
    about = (
        f"32 layers, {NARROW['hidden_size']} wide, one sequence of 16 tokens, bf16, one thread, the least of "
        f"{arguments.count}; methods as in conf/method. The last column is computed: LLaMA-7B's layers on rows of "
        f"{gpu_models.MEAN_TOKENS:g} tokens, were this processor the GPU's."
    )
    body = f"{about}\n\n{record.table(columns, lines)}"
    record.section(
        "What a micro-batch costs the processor",
        body,
        arguments.record,
        ("torch", "transformers", "peft", "bitsandbytes"),
    )


if __name__ == "__main__":
    main()
