"""How many requests are asked for the rows that are missing: few in vain, few waits."""

import heapq
import random
import statistics

import pytest

from alpaca.generation.estimate import requests_needed


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
