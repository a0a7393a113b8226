"""python benchmarks/dedupe.py [rows.json] [--many 500000]: this project's dedupe beside the way of the original.

The original scores one candidate against every row with rouge_score's pure-Python table. That is timed on a few rows,
half of them before and half after, and extrapolated; on many cores the original divides its time by their number.
"""

import argparse
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from alpaca.generation.dedupe import Pool
from alpaca.generation.tokens import english
from benchmarks import record

DEFAULT = Path(os.environ.get("ALPACA_SHARED", "../shared")) / "data" / "alpaca_data.json"


def memory_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def original(candidates: list[str], rows: list[str]) -> float:
    """Seconds of CPU that all candidates take."""
    from rouge_score.rouge_scorer import _score_lcs

    tokens = [english(r) for r in rows]
    start = time.process_time()
    for text in candidates:
        query = english(text)
        for row in tokens:
            _score_lcs(query, row)
    return time.process_time() - start


def recombined(rows: list[str], count: int) -> list[str]:
    """Instructions made of words drawn from real ones, as long as real ones."""
    rng, words = random.Random(0), [w for r in rows for w in r.split()]
    return [" ".join(rng.choices(words, k=len(rng.choice(rows).split()))) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", default=DEFAULT)
    parser.add_argument("--many", type=int, default=0, help="also dedupe this many recombined instructions")
    parser.add_argument("--sample", type=int, default=4, help="rows that the original's way is timed on")
    parser.add_argument("--rows", type=int, default=None, help="only the first rows")
    record.option(parser)
    arguments = parser.parse_args()
    rows = [r["instruction"] for r in json.loads(Path(arguments.path).read_text(encoding="utf-8"))][: arguments.rows]
    sample = random.Random(1).sample(rows, min(300, len(rows)))
    few = sample[: arguments.sample]
    before = original(few[::2], rows)
    pool, pairs, audit = Pool(), 0, [time.perf_counter(), time.process_time()]
    for text in tqdm(rows, desc="every pair", disable=None, leave=False):
        pairs += len(pool.matches(text))
        pool.add(text)
    audit = [time.perf_counter() - audit[0], time.process_time() - audit[1]]
    decide = each(pool.matches, sample)
    start = time.perf_counter()
    pool.nearest_of(sample, [len(pool)] * len(sample))
    nearest = (time.perf_counter() - start) / len(sample)
    after = original(few[1::2], rows)
    slow = (before + after) / len(few)
    every = slow * len(rows) / 2  # a row meets those before it: half of the table
    lines = [
        line(f"all of {len(rows):,} against those before, by the clock", every, audit[0]),
        line("… of processors", every, audit[1]),
        line("one against all: the decision", slow, decide),
        line("one against all: the decision, the 10 nearest and the mean", slow, decide + nearest),
    ]
    more = f"{pairs} pairs are above 0.7; at most {memory_gb():.2f} GB."
    if arguments.many:
        more += f" {recombination(rows, arguments.many)}"
    about = (
        f"Instructions of {Path(arguments.path).name}. rouge_score's way, one after the other on one processor, is "
        f"timed on {len(few)} of them against all and extrapolated. {more}"
    )
    body = record.table(["work", "rouge_score", "here", "ratio"], lines)
    record.section("ROUGE-L dedupe", f"{about}\n\n{body}", arguments.record, ("rouge-score", "rapidfuzz", "numpy"))


def each(work: Callable[[str], object], texts: list[str]) -> float:
    """Seconds that a text takes."""
    start = time.perf_counter()
    for text in texts:
        work(text)
    return (time.perf_counter() - start) / len(texts)


def line(name: str, slow: float, fast: float) -> list[str]:
    def shown(seconds: float) -> str:
        return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:,.1f} s"

    return [name, shown(slow), shown(fast), f"{slow / fast:,.0f} times faster"]


def recombination(rows: list[str], count: int) -> str:
    """What deduping many made-up instructions takes, in words."""
    texts = recombined(rows, count)
    before, pool, start = memory_gb(), Pool(), time.perf_counter()
    kept = sum(found is None for found in pool.accept(texts))
    return (
        f"{len(texts):,} recombined instructions, one by one: {time.perf_counter() - start:.0f} s, kept {kept:,}, "
        f"{memory_gb() - before:.2f} GB for {sum(pool._lengths):,} tokens."
    )


if __name__ == "__main__":
    main()
