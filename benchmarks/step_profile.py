"""python benchmarks/step_profile.py: where the time of a training step goes, on the plain path and on the fast one.

Forward and backward pass of one micro-batch after another on the same rows and model, under torch's profiler; the
operators that take the most time by themselves on either path, in milliseconds a micro-batch.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import record, training  # noqa: E402


def prepared(arguments: argparse.Namespace, scratch: Path, tokenizer: Any) -> list[dict[str, Any]]:
    """The first rows as examples."""
    from alpaca import data
    from alpaca.prompts import Prompt
    from tests.commands import compose

    source = [f"data.path={arguments.data}", f"data.limit={arguments.rows}", f"data.cache={scratch / 'cache'}"]
    config = compose("data=custom", *source)
    return list(data.prepare(config, tokenizer, Prompt.from_config(config.prompt)).train)


def spent(forward: Any, way: Any, model: Any, given: list[dict[str, Any]]) -> dict[str, tuple[float, int]]:
    """{operator: (milliseconds by itself, calls)} a micro-batch; the first micro-batch warms up."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    def work(batch: dict[str, Any]) -> None:
        model.zero_grad()
        forward.by(way, model, batch, (batch["labels"] != -100).sum()).total.backward()

    work(given[0])
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=activities) as found:
        for batch in given:
            work(batch)
    times = {}
    for event in found.key_averages():
        own = event.self_cpu_time_total + getattr(event, "self_device_time_total", 0)
        times[event.key] = (own / 1000 / len(given), round(event.count / len(given)))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=list(training.FAMILIES), default="llama")
    parser.add_argument("--micro", type=int, default=4)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--top", type=int, default=12, help="operators that are shown of each path")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--data", default=str(training.SHARED / "data" / "alpaca_data.json"))
    parser.add_argument("--tokenizer", help="folder of the tokenizer; the family's in $ALPACA_SHARED")
    parser.add_argument("--sizes", type=json.loads, default={}, help='fields of the model, as {"hidden_size": 256}')
    record.option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        compare(arguments, Path(scratch))


def compare(arguments: argparse.Namespace, scratch: Path) -> None:
    """Both paths as a table."""
    import torch
    import transformers

    from alpaca import data, forward_check
    from alpaca.forward import Forward, Way

    torch.set_num_threads(arguments.threads)
    sizes = training.sizes(arguments.family) | arguments.sizes
    folder = arguments.tokenizer or str(training.SHARED / "tokenizers" / arguments.family)
    plan = {"family": arguments.family, "sizes": sizes, "tokenizer": folder}
    path = training.model_folder(plan, scratch / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train()
    examples, collate = prepared(arguments, scratch, tokenizer), data.FlatCollator(tokenizer.pad_token_id)
    given = [collate(examples[i : i + arguments.micro]) for i in range(0, len(examples), arguments.micro)]
    checked = forward_check.check_examples(examples, collate)
    forward = Forward(model, 512)
    tokens = max(sum(batch["lengths"]) for batch in given)
    forward_check.choose(forward, model, checked, contextlib.nullcontext, lambda equal: equal, tokens=tokens)
    paths = [spent(forward, way, model, given) for way in (Way("padded", "full"), forward.way)]
    names: list[str] = []
    for times in paths:
        names += sorted(times, key=lambda name: times[name], reverse=True)[: arguments.top]
    names = sorted(set(names), key=lambda name: max(p.get(name, (0.0, 0)) for p in paths), reverse=True)
    lines = [[name, *(cell(p.get(name)) for p in paths)] for name in names]
    total = [sum(time for time, _ in p.values()) for p in paths]
    lines.append(["all operators", *(f"{time:.1f}" for time in total)])
    about = (
        f"{arguments.family}, {arguments.rows} rows in micro-batches of {arguments.micro}, fp32, {arguments.threads} "
        f"threads. Milliseconds a micro-batch that an operator takes by itself (calls), forward and backward; "
        f"the fast path: {forward.way}."
    )
    body = record.table(["operator", "plain path", "fast path"], lines)
    record.section(f"Profile of a step, tiny {arguments.family}", f"{about}\n\n{body}", arguments.record)


def cell(found: tuple[float, int] | None) -> str:
    return f"{found[0]:.1f} ({found[1]})" if found else "–"


if __name__ == "__main__":
    main()
