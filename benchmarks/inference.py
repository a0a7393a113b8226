"""python benchmarks/inference.py [RUN] [--prompts 500] [--new 64] [--size 32]: a batch against one question at a time.

Both sides are greedy, on the same model and prompts: transformers' generate, a prompt at a time with its cache of keys and
values, and what `infer.py batch.input=` does. Without RUN: the newest finished run in outputs/.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from alpaca.inference import Sampling, load_run
from alpaca.loaded import Answer, Loaded, read
from alpaca.results import RunFolder, newest_run
from benchmarks import record

ROOT = Path(__file__).resolve().parent.parent


def prompts(count: int) -> list[dict[str, str]]:
    """The seed tasks, then their instructions with the inputs of others."""
    tasks = [json.loads(x) for x in (ROOT / "alpaca/generation/seed_tasks.jsonl").read_text("utf-8").splitlines()]
    inputs = [t["input"] for t in tasks if t["input"]]
    rows = [{"instruction": t["instruction"], "input": t["input"]} for t in tasks]
    while len(rows) < count:
        i = len(rows)
        rows.append({"instruction": tasks[i % len(tasks)]["instruction"], "input": inputs[(i * 7) % len(inputs)]})
    return rows[:count]


def alone(loaded: Loaded, rows: list[dict[str, str]], sampling: Sampling) -> list[Answer]:
    """transformers' generate, without a batch."""
    import torch
    from tqdm import tqdm

    answers = []
    for given in tqdm(rows, desc="one at a time"):
        question = loaded.question(given["instruction"], given["input"])
        ids = torch.tensor([question], device=loaded.model.device)
        output = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(loaded.ends()),
            pad_token_id=loaded.tokenizer.pad_token_id,
        )
        row, wording = loaded.row(question, sampling, 0)
        row.generated = output[0, len(question) :].tolist()
        row.ended = "eos" if row.generated[-1] in loaded.ends() else "length"
        answers.append(read(row, wording))
    return answers


def batched(loaded: Loaded, rows: list[dict[str, str]], sampling: Sampling, size: int) -> list[Answer]:
    """What infer.py does."""
    from tqdm import tqdm

    done = dict(tqdm(loaded.answers(rows, sampling, size), total=len(rows), desc="in a batch"))
    return [done[i] for i in range(len(rows))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--new", type=int, default=64, help="most new tokens of an answer")
    parser.add_argument("--size", type=int, default=32, help="rows at once")
    record.option(parser)
    arguments = parser.parse_args()
    if arguments.run and not Path(arguments.run).is_dir():
        parser.error(f"{arguments.run} is not there: python train.py hydra.run.dir={arguments.run} makes it")
    run = RunFolder(arguments.run) if arguments.run else newest_run(Path("outputs"))
    loaded = load_run(run, merge=True)
    rows, sampling = prompts(arguments.prompts), Sampling(max_new_tokens=arguments.new)
    rates, results, counts = [], [], []
    for work in (
        lambda: alone(loaded, rows, sampling),
        lambda: batched(loaded, rows, sampling, arguments.size),
    ):
        wall, cpu = time.perf_counter(), time.process_time()
        answers = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        tokens = sum(a.tokens for a in answers)
        rates.append((tokens / wall, tokens / cpu))
        results.append([a.text for a in answers])
        counts.append(tokens)
    same = sum(a == b for a, b in zip(*results, strict=True))
    lines = []
    for what, old, new in zip(("by the clock", "of processors"), *rates, strict=True):
        lines.append([f"tokens/s, {what}", f"{old:,.0f}", f"{new:,.0f}", f"{new / old:.1f} times"])
    about = (
        f"{parameters(loaded):,} parameters, {len(rows)} prompts, at most {arguments.new} new tokens, greedy, "
        f"{arguments.size} rows at once; {counts[0]:,} and {counts[1]:,} tokens; {same} of {len(rows)} answers identical."
    )
    body = record.table(["work", "transformers' generate, one at a time", "here", "ratio"], lines)
    record.section("Batch inference", f"{about}\n\n{body}", arguments.record)


def parameters(loaded: Loaded) -> int:
    return sum(p.numel() for p in loaded.model.parameters())


if __name__ == "__main__":
    main()
