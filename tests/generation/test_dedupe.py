"""Every decision is compared with the rouge_score package's own."""

import json
import os
import random
from pathlib import Path

import pytest

from alpaca.generation import dedupe
from alpaca.generation.dedupe import Pool
from alpaca.generation.tokens import english, universal

SHARED = Path(os.environ.get("ALPACA_SHARED", "../shared"))


def package_score(a: str, b: str) -> float:
    from rouge_score.rouge_scorer import _score_lcs
    from rouge_score.tokenize import tokenize

    return _score_lcs(tokenize(a, None), tokenize(b, None)).fmeasure


def sentences(count: int, seed: int, words: int = 12, longest: int = 20) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(words)}" for _ in range(rng.randrange(longest))) for _ in range(count)]


def scores(pool: Pool, text: str) -> list[float]:
    ((every, _),) = pool.nearest_of([text], [len(pool)], len(pool))
    return [match.score for match in sorted(every, key=lambda m: m.row)]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_decisions_and_scores_equal_the_package_on_random_pairs(threshold: float) -> None:
    pool, rows = Pool(threshold=threshold), sentences(120, 1) + ["", "?!", "w1 " * 70, " ".join(sentences(9, 3))]
    for row in rows:
        pool.add(row)
    for text in sentences(60, 2) + ["", "w1 " * 66, rows[-1]]:
        truth = [package_score(row, text) for row in rows]
        assert {m.row: m.score for m in pool.matches(text)} == {i: s for i, s in enumerate(truth) if s > threshold}
        assert scores(pool, text) == truth


def test_exactly_the_threshold_is_decided_as_the_package_decides() -> None:
    seen = set()
    for m in range(1, 60):
        for n in range(1, 60):
            common = 0.35 * (m + n)
            if abs(common - round(common)) > 1e-9 or not 0 < round(common) <= min(m, n):
                continue
            same = [f"s{i}" for i in range(round(common))]
            a = " ".join(same + [f"a{i}" for i in range(m - len(same))])
            b = " ".join(same + [f"b{i}" for i in range(n - len(same))])
            pool = Pool()
            pool.add(a)
            assert bool(pool.matches(b)) == (package_score(a, b) > 0.7), (m, n)
            seen.add(package_score(a, b) > 0.7)
    assert False in seen


def test_batch_is_one_by_one_and_agrees_with_a_plain_loop() -> None:
    texts = sentences(400, 5, words=30, longest=10)
    kept: list[str] = []
    for text in texts:
        if all(package_score(k, text) <= 0.7 for k in kept):
            kept.append(text)
    whole, single = Pool(), Pool()
    decisions = whole.accept(texts)
    assert [t for t, d in zip(texts, decisions, strict=True) if d is None] == kept
    assert [single.accept([t])[0] for t in texts] == decisions
    assert 0 < len(kept) < len(texts)


def test_the_row_it_resembles_and_the_nearest() -> None:
    pool = Pool()
    for text in ("name three fruits", "list the planets", "name three green fruits", "name three fruits"):
        pool.add(text)
    assert pool.match("Name three fruits!") == dedupe.Match(0, 1.0)
    (nearest, mean), (first, _) = pool.nearest_of(["name three fruits"] * 2, [4, 2], 3)
    assert [m.row for m in nearest] == [0, 3, 2]
    assert mean == pytest.approx((1 + 0 + 6 / 7 + 1) / 4)
    assert first == [dedupe.Match(0, 1.0), dedupe.Match(1, 0.0)]


def test_the_nearest_are_those_that_sorting_all_gives() -> None:
    rows = sentences(300, 11, words=60, longest=9) + ["", "w1 " * 80]
    pool = Pool()
    for row in rows:
        pool.add(row)
    texts = [*sentences(30, 12, words=200, longest=9), "", "unheard of", "w1 w2"]
    below = [len(rows) - 3 * i for i in range(len(texts))]
    for text, end, (nearest, mean) in zip(texts, below, pool.nearest_of(texts, below), strict=True):
        scores = [package_score(row, text) for row in rows[:end]]
        best = sorted(range(end), key=lambda i: (-scores[i], i))[:10]
        assert [(m.row, m.score) for m in nearest] == [(i, scores[i]) for i in best]
        assert mean == pytest.approx(sum(scores) / end)


def test_more_distinct_tokens_than_there_are_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = sentences(150, 7, words=40, longest=12) + ["w1 w2 w3 " * 30]
    plain = Pool().accept(texts)
    monkeypatch.setattr(dedupe, "_LAST_CHARACTER", 12)
    assert Pool().accept(texts) == plain


def test_english_tokens_are_the_packages() -> None:
    from rouge_score.tokenize import tokenize

    for text in ("It's 3.5% of İstanbul's K\u212a", "", "a_b  C-d\n\te", "naïve 中文 ok", "ÅNGSTRÖM ſ"):
        assert english(text) == tokenize(text, None)


def test_other_scripts_are_seen() -> None:
    assert universal("服用５mg阿司匹林，一天2次") == list("服用") + ["5mg"] + list("阿司匹林一天") + ["2"] + ["次"]
    assert universal("L'été, à Paris") == ["l", "été", "à", "paris"]
    assert universal("हिन्दी में लिखो।") == ["हिन्दी", "में", "लिखो"]
    zh, en = Pool("zh"), Pool("en")
    zh.add("请列出三种水果")
    en.add("请列出三种水果")
    assert zh.match("请列出三种水果。") == dedupe.Match(0, 1.0)
    assert en.match("请列出三种水果。") is None


def test_real_instructions_against_the_package() -> None:
    path = SHARED / "data" / "alpaca_data.json"
    if not path.exists():
        pytest.skip(f"{path} is not there (ALPACA_SHARED names the folder)")
    rows = random.Random(0).sample([r["instruction"] for r in json.loads(path.read_text())], 1500)
    pool = Pool()
    for row in rows:
        pool.add(row)
    for text in rows[:12] + [rows[20] + " please", rows[31].replace("the", "a")]:
        truth = [package_score(row, text) for row in rows]
        assert scores(pool, text) == truth
        assert [m.row for m in pool.matches(text)] == [i for i, s in enumerate(truth) if s > 0.7]
