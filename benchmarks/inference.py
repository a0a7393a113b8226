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
    arguments = parser.parse_args()
    run = RunFolder(arguments.run) if arguments.run else newest_run(Path("outputs"))
    loaded = load_run(run, merge=True)
    rows, sampling = prompts(arguments.prompts), Sampling(max_new_tokens=arguments.new)
    rates, results = [], []
    for name, work in (
        ("one at a time", lambda: alone(loaded, rows, sampling)),
        (f"in a batch of {arguments.size}", lambda: batched(loaded, rows, sampling, arguments.size)),
    ):
        wall, cpu = time.perf_counter(), time.process_time()
        answers = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        tokens = sum(a.tokens for a in answers)
        rates.append((tokens / wall, tokens / cpu))
        results.append([a.text for a in answers])
        print(f"{name:<22} {tokens:>8,} tokens in {wall:7.1f} s: {tokens / wall:9,.0f} tokens/s")
    same = sum(a == b for a, b in zip(*results, strict=True))
    print(
        f"ratio {rates[1][0] / rates[0][0]:.1f} by the clock, {rates[1][1] / rates[0][1]:.1f} by processor time; "
        f"{same} of {len(rows)} answers identical"
    )


if __name__ == "__main__":
    main()
