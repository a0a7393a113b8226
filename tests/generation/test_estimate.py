"""How many requests are asked for the rows that are missing: few in vain, few waits."""

import heapq
import random
import statistics
from pathlib import Path
from typing import cast

import pytest

from alpaca.generation.config import GenerateConfig, SourceConfig, TeacherConfig
from alpaca.generation.estimate import requests_needed
from alpaca.generation.items import Item
from alpaca.generation.journal import Journal
from alpaca.generation.reader import Reader
from alpaca.generation.requests import Requests
from alpaca.generation.rows import Applied
from alpaca.generation.run import Run


def asked(wanted: int, items: int, least: int, flying: int, rng: random.Random) -> tuple[int, int, float]:
    """Requests sent and needed, and the time, for `wanted` rows of replies with `least` to `items` rows that take about 1."""
    yields: list[int] = []
    done: dict[int, int] = {}
    heap: list[tuple[float, int]] = []
    sent, rows, now = 0, 0, 0.0
    while rows < wanted:
        allowed = len(yields) + requests_needed(wanted - rows, yields[-4 * flying :], items, len(yields), flying)
        while len(heap) < flying and sent < allowed:
            heapq.heappush(heap, (now + rng.uniform(0.7, 1.3), sent))
            sent += 1
        now, number = heapq.heappop(heap)
        done[number] = rng.randint(least, items)
        while len(yields) in done and rows < wanted:
            yields.append(min(done[len(yields)], wanted - rows))
            rows += yields[-1]
    return sent, len(yields), now


@pytest.mark.parametrize(
    ("wanted", "items", "least", "flying"), [(200, 3, 1, 16), (1000, 20, 8, 16), (300, 20, 5, 32), (10_000, 20, 14, 16)]
)
def test_little_is_asked_in_vain_and_the_end_waits_little(wanted: int, items: int, least: int, flying: int) -> None:
    rng, runs = random.Random(3), 100 if wanted < 5000 else 10
    results = [asked(wanted, items, least, flying, rng) for _ in range(runs)]
    in_vain = [(sent - needed) / max(1, 0.05 * needed) for sent, needed, _ in results]
    assert statistics.mean(in_vain) <= 1 and sum(v > 1 for v in in_vain) <= 0.1 * runs
    times = [time / (needed / flying) for _, needed, time in results]
    rounds = statistics.mean(needed for _, needed, _ in results) / flying
    assert statistics.mean(times) <= 1 + 2.9 / rounds  # the last one, its slowest, and now and then one more


def test_what_once_looked_to_be_needed_is_not_sent_when_it_is_not(tmp_path: Path) -> None:
    teacher, source = TeacherConfig("t", "m", concurrency=4), SourceConfig("seeds", "s.jsonl", items=20)
    config = GenerateConfig(teacher, source, num_instructions=400, output=str(tmp_path / "rows.jsonl"))
    journal, item = Journal(tmp_path / "j"), Item("Say it.", "", "It.")
    run = Run(config, journal, Requests(config, [item], []), cast(Reader, None))

    def applied(rows: int) -> None:
        run.answers.replay([{"request": run.applied, "ticket": run.applied + 1}], [None])
        run._applied(Applied([item] * rows, barren=0, full=False))

    for rows in [2] * 10:
        applied(rows)
    allowed, shown = run.limit, list(run.pool_sizes)
    for rows in [20] * 16:
        applied(rows)
    sent = list(iter(run._following, None))
    assert sent == list(range(26, 29)), "60 rows are missing, 20 come of each"
    assert allowed > 29 and run.limit >= allowed and run.pool_sizes[: len(shown)] == shown
    journal.close()
