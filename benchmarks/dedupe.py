"""python benchmarks/dedupe.py [rows.json] [--many 500000]: this project's dedupe against the way of the original.

The original scores one candidate against every row with rouge_score's pure-Python table, one process a core.
"""

import argparse
import json
import os
import random
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from alpaca.generation.dedupe import Pool
from alpaca.generation.tokens import english

DEFAULT = Path(os.environ.get("ALPACA_SHARED", "../shared")) / "data" / "alpaca_data.json"


def memory_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def original(candidates: list[str], rows: list[str]) -> float:
    """Seconds of CPU a candidate takes."""
    from rouge_score.rouge_scorer import _score_lcs

    tokens = [english(r) for r in rows]
    start = time.process_time()
    for text in candidates:
        query = english(text)
        for row in tokens:
            _score_lcs(query, row)
    return (time.process_time() - start) / len(candidates)


def recombined(rows: list[str], count: int) -> list[str]:
    """Instructions made of words drawn from real ones, as long as real ones."""
    rng, words = random.Random(0), [w for r in rows for w in r.split()]
    return [" ".join(rng.choices(words, k=len(rng.choice(rows).split()))) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", default=DEFAULT)
    parser.add_argument("--many", type=int, default=0, help="also dedupe this many recombined instructions")
    arguments = parser.parse_args()
    rows = [r["instruction"] for r in json.loads(Path(arguments.path).read_text())]
    seeds = (Path(arguments.path).parent / "seed_tasks.jsonl").read_text().splitlines()

    pool, pairs, start = Pool(), 0, time.perf_counter()
    for number, text in enumerate([json.loads(s)["instruction"] for s in seeds] + rows):
        pairs += len(pool.matches(text)) if number >= len(seeds) else 0  # the seeds among themselves are given
        pool.add(text)
    audit = time.perf_counter() - start
    sample = random.Random(1).sample(rows, 300)
    start = time.perf_counter()
    for text in sample:
        pool.matches(text)
    decide = (time.perf_counter() - start) / len(sample)
    start = time.perf_counter()
    for text in sample:
        pool.nearest(text)
    nearest = (time.perf_counter() - start) / len(sample)
    slow = original(sample[:2], rows)
    print(f"one candidate against {len(rows):,}, the original's way: {slow * 1e3:9.2f} ms of CPU")
    print(f"  decision:                    {decide * 1e3:9.2f} ms   {slow / decide:,.0f} times faster")
    print(
        f"  decision + 10 nearest + mean: {(decide + nearest) * 1e3:8.2f} ms   {slow / (decide + nearest):,.0f} times"
    )
    hours = slow * len(rows) / 2 / 3600
    print(f"every pair of {len(pool):,}: {audit:.1f} s, {memory_gb():.2f} GB, {pairs} pairs above 0.7", end="")
    print(f"   (the original's way: {hours:.1f} hours of CPU, {hours * 3600 / audit:,.0f} times)")
    if arguments.many:
        texts = recombined(rows, arguments.many)
        before, pool, start = memory_gb(), Pool(), time.perf_counter()
        kept = sum(found is None for found in pool.accept(texts))
        print(
            f"{len(texts):,} recombined instructions, one by one: {time.perf_counter() - start:.0f} s, kept {kept:,}, "
            f"{memory_gb() - before:.2f} GB for {sum(pool._lengths):,} tokens"
        )


if __name__ == "__main__":
    main()
