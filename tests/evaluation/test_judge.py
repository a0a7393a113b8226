"""Two models compared by a third: a judge behind real sockets and the real SDK, against a direct computation."""

import json
import math
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alpaca.errors import UserError
from alpaca.evaluation import preference
from alpaca.evaluation.config import load
from alpaca.evaluation.judge import judge
from alpaca.evaluation.sides import short_names
from tests import forks
from tests.commands import ROOT, run_python
from tests.generation.conftest import Teacher, teacher  # noqa: F401

Start = Callable[..., Teacher]
CATEGORIES = ["code", "mail", ""]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> tuple[list[int], list[int], dict[str, Any]]:
    """Lengths of both sides' answers (the fair judge prefers the longer one), and the settings that compare them."""
    rng = random.Random(26)
    ours, theirs = [rng.randrange(1, 12) for _ in range(60)], [rng.randrange(1, 10) for _ in range(60)]
    rows = [{"instruction": f"Question {{first}} {i}?", "input": "a\n\nb" if i % 4 == 0 else "", "category": CATEGORIES[i % 3]} for i in range(60)]  # fmt: skip
    # answers of one length are the same text in every second case
    said = ["x" * n for n in ours], ["xy"[(i // 3) % 2] * n for i, n in enumerate(theirs)]
    a, b = (write(tmp_path / f"{name}.jsonl", [r | {"answer": t} for r, t in zip(rows, texts, strict=True)]) for name, texts in zip("ab", said, strict=True))  # fmt: skip
    return ours, theirs, {"task": "judge", "predictions": a, "versus": b}


def local(server: Teacher, **more: Any) -> dict[str, Any]:
    """The settings that make a server the judge, at a dollar for a thousand tokens."""
    price = {"usd_per_million_input": 1000, "usd_per_million_output": 1000}
    return {"teacher": {"name": "local", "model": "j", "base_url": f"{server.address}/v1", "api_key_env": None, "backoff": 0.01, "max_tokens": 256, **price, **more}}  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "judge.json").read_text())["figures"]


@pytest.mark.parametrize("faults", [[], ["429", "500", "drop", "garbage"]])
def test_a_fair_judge_is_counted_right_with_faults_and_without(teacher: Start, files: Any, tmp_path: Path, capsys: Any, faults: list[str]) -> None:  # noqa: F811  # fmt: skip
    ours, theirs, settings = files
    server = teacher([], rate=0.3, faults=faults)
    judge(load(settings | local(server)), tmp_path / "out")
    found, told = figures(tmp_path / "out"), capsys.readouterr().out.splitlines()
    scores = [(n > m) + (n == m) / 2 for n, m in zip(ours, theirs, strict=True)]
    same = sum(n == m and (i // 3) % 2 == 0 for i, (n, m) in enumerate(zip(ours, theirs, strict=True)))
    assert 0 < same < sum(s == 0.5 for s in scores)
    assert (found["wins"], found["ties"], found["losses"]) == tuple(scores.count(s) for s in (1, 0.5, 0))
    assert found["win_rate"] == sum(scores) / 60 and found["identical_answers"] == same
    low, high = found["win_rate_95"]
    deviation = math.sqrt(sum((s - sum(scores) / 60) ** 2 for s in scores) / 60)
    assert (high - low) / 2 == pytest.approx(1.96 * deviation / math.sqrt(60), rel=0.12)
    assert found["position_bias"] == {"judged_in_both_orders": 60 - same, "first_preferred_in_both": 0, "second_preferred_in_both": 0, "first_preferred_share": 0.5}  # fmt: skip
    code = [s for i, s in enumerate(scores) if i % 3 == 0]
    assert list(found["categories"]) == ["code", "mail"] and found["categories"]["code"]["win_rate"] == sum(code) / 20
    assert short_names("outputs/a/run", "outputs/b/run") == ("a/run", "b/run")
    a, b = "a.jsonl", "b.jsonl"
    assert told[0].startswith(
        f"{a} is better than {b}: win rate {100 * sum(scores) / 60:.1f} % over 60 questions (95 %"
    )
    stats = server.stats()
    assert stats["answered"] == 2 * (60 - same) and stats["repeated"] == 0
    assert (stats["requests"] > 1.1 * stats["answered"]) == bool(faults)
    journal = lines(tmp_path / "out" / "verdicts.jsonl.journal")
    assert sum(e["kind"] == "reply" for e in journal) == stats["answered"]
    paid = sum(e["usd"] for e in journal if e["kind"] == "reply")
    assert paid == pytest.approx((stats["prompt_tokens"] + stats["completion_tokens"]) / 1000)
    assert "Question {first} " in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "win_rate.png").is_file()
    judge(load(settings | local(server)), tmp_path / "out")
    assert server.stats()["requests"] == stats["requests"] and capsys.readouterr().out.splitlines() == told


def test_a_judge_that_goes_by_position_shows_no_difference(teacher: Start, files: Any, tmp_path: Path, capsys: Any) -> None:  # noqa: F811  # fmt: skip
    judge(load(files[2] | local(teacher([], judge="first"))), tmp_path / "out")
    found, told = figures(tmp_path / "out"), capsys.readouterr().out
    both = found["position_bias"]["judged_in_both_orders"]
    assert found["position_bias"]["first_preferred_in_both"] == both == 60 - found["identical_answers"]
    assert found["win_rate"] == 0.5 and found["wins"] == found["losses"] == 0
    assert told.startswith("No difference is shown between ") and "take another one before believing" in told


def test_unreadable_verdicts_are_left_out_counted_and_asked_again_on_demand(teacher: Start, files: Any, tmp_path: Path, capsys: Any) -> None:  # noqa: F811  # fmt: skip
    server = teacher([], judge="half garbage")
    judge(load(files[2] | local(server)), tmp_path / "out")
    found, rows = figures(tmp_path / "out"), lines(tmp_path / "out" / "verdicts.jsonl")
    unread = sum(o["state"] == "unreadable" for r in rows for o in r["orders"])
    assert found["verdicts"]["unreadable"] == unread > 20 and found["judged"] == sum(r["outcome"] is not None for r in rows) < 60  # fmt: skip
    assert f" {unread} unreadable" in capsys.readouterr().out
    before = server.stats()["requests"]
    server.set(judge="fair")
    judge(load(files[2] | local(server) | {"judge": {"reask": 1}}), tmp_path / "out")
    assert server.stats()["requests"] - before == unread
    assert figures(tmp_path / "out")["judged"] == 60
    server.set(judge="garbage")
    with pytest.raises(UserError, match="no pair of verdicts could be read .one is unreadable: 'It depends"):
        judge(load(files[2] | local(server)), tmp_path / "other")


def test_the_budget_is_a_hard_cap_and_what_was_judged_counts(teacher: Start, files: Any, tmp_path: Path, capsys: Any) -> None:  # noqa: F811  # fmt: skip
    server = teacher([])
    capped = files[2] | local(server, concurrency=3) | {"budget": {"max_usd": 16.0}}
    judge(load(capped), tmp_path / "out")
    stats, found, said = server.stats(), figures(tmp_path / "out"), capsys.readouterr()
    assert (stats["prompt_tokens"] + stats["completion_tokens"]) / 1000 <= 16 and 0 < found["judged"] < 60
    assert f"over {found['judged']} of 60 questions" in said.out and "budget.max_usd=16 leaves no room" in said.err
    judge(load(capped), tmp_path / "out")
    assert server.stats()["requests"] == stats["requests"], "the cap holds for the folder, not for one call"
    server.set(context=200)
    with pytest.raises(UserError, match="one is too long"):
        judge(load(files[2] | local(server)), tmp_path / "short")


@pytest.mark.slow
def test_killed_nothing_is_paid_twice_and_the_table_is_the_same(teacher: Start, files: Any, tmp_path: Path) -> None:  # noqa: F811  # fmt: skip
    server, plain = teacher([], latency=0.15), teacher([])
    judge(load(files[2] | local(plain)), tmp_path / "plain")

    def words(address: str) -> list[str]:
        fixed = [f"predictions={files[2]['predictions']}", f"versus={files[2]['versus']}", f"hydra.run.dir={tmp_path / 'killed'}"]  # fmt: skip
        return [str(ROOT / "evaluate.py"), "task=judge", *fixed, "teacher=local", f"teacher.base_url={address}/v1", "teacher.model=j", "teacher.concurrency=2"]  # fmt: skip

    kills = 0
    for answers in (10, 40):
        process = forks.Forked(words(server.address), ROOT)
        while server.stats()["answered"] < answers and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    server.set(latency=0.0)
    run_python(*words(server.address))
    assert server.stats()["repeated"] <= 2 * kills, "only requests in flight are asked again"
    ours, whole = figures(tmp_path / "killed"), figures(tmp_path / "plain")
    assert ours == whole


def test_a_run_against_a_run_and_what_is_unfair_is_said(teacher: Start, tiny_run: Path, tiny_lora_run: Path, tiny_rows: Path, tmp_path: Path, capsys: Any) -> None:  # noqa: F811  # fmt: skip
    server = teacher([])
    settings = {"task": "judge", "run": str(tiny_run), "versus": str(tiny_lora_run), "data": {"path": str(tiny_rows)}, "limit": 4}  # fmt: skip
    judge(load(settings | local(server) | {"dry_run": True}), tmp_path / "out")
    said = capsys.readouterr()
    assert "requests: 8 (4 questions x 2 orders = 8)" in said.out and server.stats()["requests"] == 0
    judge(load(settings | local(server)), tmp_path / "out")
    rows, said = lines(tmp_path / "out" / "verdicts.jsonl"), capsys.readouterr()
    assert [r["answer_a"] for r in rows] == [r["output"] for r in rows]
    assert [r["answer_b"].split() for r in rows] == [r["output"].split()[::-1] for r in rows]
    assert f"{tiny_run} was trained on 4 of the 4 questions" in said.err
    kept = json.loads((tiny_run / "evaluations" / "judge.json").read_text())
    assert kept["versus"] == str(tiny_lora_run) and kept["figures"]["ties"] == 4  # the same words in another order
    judge(load(settings | local(server)), tmp_path / "out")
    assert "answers of" not in capsys.readouterr().err and server.stats()["requests"] == 8


def test_a_prompt_of_ones_own_and_the_chinese_one(teacher: Start, files: Any, tmp_path: Path) -> None:  # noqa: F811
    server = teacher([])
    own = tmp_path / "own.txt"
    own.write_text("Q {instruction} / {input} / {reference}\n[Answer A]\n{first}\n[End]\n[Answer B]\n{second}\n[End]")
    judge(load(files[2] | local(server) | {"limit": 1, "judge": {"prompt_file": str(own)}}), tmp_path / "own")
    asked = server.stats()["bodies"][0]["messages"][0]["content"]
    assert asked.startswith("Q Question {first} 0? / a\n\nb / \n[Answer A]\n")
    rows = [{"instruction": "写一首诗", "output": "春", "answer": "春眠不觉晓"}]
    said = [{"answer": "不会"}]
    chinese = {"task": "judge", "predictions": write(tmp_path / "c.jsonl", rows), "versus": write(tmp_path / "d.jsonl", said)}  # fmt: skip
    judge(load(chinese | local(server)), tmp_path / "zh")
    assert figures(tmp_path / "zh")["wins"] == 1
    assert server.stats()["bodies"][-1]["messages"][0]["content"].startswith("两个助手")
    own.write_text("{question} {first}")
    with pytest.raises(UserError, match="lacks {second}: the text must say where it goes"):
        judge(load(files[2] | local(server) | {"judge": {"prompt_file": str(own)}}), tmp_path / "o")


def test_few_wins_are_not_called_a_difference() -> None:
    assert preference.sign_test(3, 0) == 0.25 and preference.sign_test(0, 0) == 1
    assert preference.sign_test(8, 1) == pytest.approx(2 * (1 + 9) / 2**9)
    few = preference.figures([1.0] * 5, seed=1)
    assert few["win_rate_95"] == [1, 1] and preference.sentence("a", "b", few, 5).startswith("No difference is shown")
    many = preference.figures([0.0] * 20, seed=1)
    assert preference.sentence("a", "b", many, 20).startswith("a is worse than b: win rate 0.0 % over 20 questions")
    assert preference.figures([1.0, 0.5], seed=1)["win_rate_95"] is None
    assert preference.needed([1.0] * 55 + [0.0] * 45) == math.ceil(1.96**2 * 0.2475 / 0.0025)


def test_bad_input_is_a_line(files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    key = {"teacher": {"name": "openai", "model": "m", "price_waived": True}}
    free = {"teacher": key["teacher"] | {"api_key_env": None}}
    settings = files[2]
    for wrong, words in (
        (settings | key, "OPENAI_API_KEY is not set: export"),
        (settings | free | {"budget": {"max_usd": 1}}, "cannot be kept: the price of m is not known"),
        (settings | free | {"versus": None}, "versus is missing: give what to compare with"),
        (settings | free | {"versus": "nowhere"}, "versus=nowhere is not there"),
        (settings | free | {"run": str(tmp_path)}, "compares one thing with versus="),
        (settings | free | {"judge": {"prompt_file": "no.txt"}}, "judge.prompt_file=no.txt is not there"),
        (settings | free | {"task": "instructions"}, "versus goes with task=judge"),
        (settings | free | {"human": True, "dry_run": True}, "dry_run is for a judge that costs"),
    ):
        with pytest.raises(UserError, match=words):
            load(wrong)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "binary.jsonl").write_bytes(b"{\n\xff\xfe")
    (tmp_path / "bare").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("a: 1")
    rows = lines(Path(settings["versus"]))
    short, turned = write(tmp_path / "short.jsonl", rows[:5]), write(tmp_path / "turned.jsonl", rows[::-1])
    inputs = write(tmp_path / "inputs.jsonl", [r | {"input": "other"} for r in rows])
    for versus, words in (
        (tmp_path / "empty.jsonl", "empty.jsonl holds no answers"),
        (tmp_path / "binary.jsonl", "line 2 is not UTF-8"),
        (tmp_path / "bare", "holds no run and no weights"),
        (tmp_path / "run", "is no run folder with a finished model/"),
        (short, "has 5 rows, and there are 60 to judge"),
        (turned, "row 1 answers another instruction"),
        (inputs, "row 1 answers another input"),
        (settings["predictions"], "both sides are"),
        (
            write(tmp_path / "numbers.jsonl", [1] * 60),
            "row 1 has no text under answer, prediction, response, completion, generated_text, output",
        ),
    ):
        with pytest.raises(UserError, match=words):
            judge(load(settings | free | {"versus": str(versus)}), tmp_path / "out")
    assert not (tmp_path / "out" / "verdicts.jsonl").exists()
