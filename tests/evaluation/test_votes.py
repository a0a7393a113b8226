"""Blind votes: what is kept and counted, and the page in a real headless Chromium."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alpaca.errors import UserError
from alpaca.evaluation.votes import Votes, agreement
from tests import forks
from tests.commands import ROOT
from tests.test_ui import browser, until  # noqa: F401

ROWS = [
    {"instruction": f"Question {i}?", "input": "", "category": "code", "answer_a": f"new words {i}", "answer_b": f"old words {i}"}
    for i in range(4)
] + [{"instruction": "Same?", "input": "", "category": "mail", "answer_a": "one", "answer_b": "one "}]  # fmt: skip

ODD = "<b>Bob</b> *a|b*"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_votes_are_kept_counted_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    votes = Votes(path, ROWS, seed=1)
    for choice in ("a", "a", "bad", "skip"):
        number = votes.next("Ann")
        assert number is not None
        left = votes.left("Ann", number)
        votes.vote("Ann", number, choice if choice in ("bad", "skip") else "left" if left == choice else "right")
        assert lines(path)[-1]["left"] == left and lines(path)[-1]["vote"] == choice
    assert votes.next("Ann") is None and sorted(votes.order("Ann")) == [0, 1, 2, 3]
    sides = [votes.left(f"voter {i}", n) for i in range(50) for n in range(4)]
    assert 70 < sides.count("a") < 130 and votes.order("Ann") != votes.order("Bob")
    with pytest.raises(UserError, match="in use by another process.*hydra.run.dir=DIR"):
        Votes(path, ROWS, seed=1)
    votes.close()
    with path.open("a") as file:
        file.write('{"kind": "vote", "voter": "Bob", "ke')  # killed half-way through a line
    votes = Votes(path, ROWS, seed=1)
    assert votes.next("Ann") is None and votes.done("Ann") == 4 and votes.done("Bob") == 0
    first, second, third, _ = votes.order("Ann")
    for number, choice in ((first, "tie"), (second, "left" if votes.left("Bob", second) == "b" else "right")):
        votes.vote("Bob", number, choice)
    found = votes.figures()
    assert (found["judged"], found["wins"], found["ties"], found["losses"]) == (3, 1, 2, 0)  # 0.75, 0.5, 0.5
    assert found["win_rate"] == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert found["votes"] == 5 and found["both_bad"] == 1 and found["skipped"] == 1 and found["identical_answers"] == 1
    assert found["voters"]["Ann"]["win_rate"] == pytest.approx(2.5 / 3)
    assert found["agreement"] == [{"voters": ["Ann", "Bob"], "questions": 2, "same": 0.0, "kappa": 0.0}]
    votes.vote("Ann", votes.latest("Ann"), "tie")  # type: ignore[arg-type]
    assert votes.figures()["skipped"] == 0 and votes.figures()["judged"] == 4
    votes.close()
    changed = Votes(path, [r | {"answer_a": "trained again"} for r in ROWS], seed=1)
    assert changed.figures()["votes"] == 0
    changed.close()


def test_kappa_is_agreement_beyond_chance() -> None:
    ann, bob = ["a"] * 6 + ["b"] * 4, ["a"] * 5 + ["b"] * 5
    votes = [("Ann", i, v) for i, v in enumerate(ann)] + [("Bob", i, v) for i, v in enumerate(bob)]
    assert agreement(votes)[0]["same"] == 0.9 and agreement(votes)[0]["kappa"] == pytest.approx((0.9 - 0.5) / 0.5)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[str, Path, forks.Forked]]:
    """The command as a user starts it: its address, its folder, the process."""
    for side in "ab":
        rows = [{k: r[k] for k in ("instruction", "input", "category")} | {"answer": r[f"answer_{side}"]} for r in ROWS]
        (tmp_path / f"model-{side}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = ["human=true", f"predictions={tmp_path}/model-a.jsonl", f"versus={tmp_path}/model-b.jsonl", "ui.port=0"]
    command = [str(ROOT / "evaluate.py"), "task=judge", *words, f"hydra.run.dir={tmp_path / 'out'}"]
    process = forks.Forked(command, ROOT)
    end = time.monotonic() + 120
    while not (found := re.search(r"4 pairs to vote on at (http://127.0.0.1:\d+\S*)\s", process.stderr)):
        assert process.poll() is None and time.monotonic() < end, process.stderr
        time.sleep(0.05)
    yield found[1], tmp_path / "out", process
    process.kill()
    process.wait()


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_takes_votes_by_button_and_key_and_ends_with_the_table(browser: Any, page: Any) -> None:  # noqa: F811
    from selenium.webdriver.common.keys import Keys

    address, folder, process = page

    def element(name: str) -> Any:
        return browser.find_element("css selector", f"#{name}")

    def begin(name: str, done: int) -> None:
        box = browser.find_element("css selector", "#name input, #name textarea")
        box.clear()
        box.send_keys(name)
        element("begin").click()
        until(lambda: f"{name}: {done} of 4 done" in element("progress").text, f"{name}'s place")

    def shown() -> tuple[str, ...]:
        return tuple(browser.find_element("css selector", f"#{n} textarea").get_attribute("value") for n in ("question", "answer-A", "answer-B"))  # fmt: skip

    def press(key: str, name: str, done: int) -> None:
        browser.find_element("css selector", "body").send_keys(key)
        until(lambda: f"{name}: {done} of 4 done" in element("progress").text, f"vote {done}")

    browser.get(address)
    until(lambda: element("begin").is_displayed(), "the page")
    browser.find_element("css selector", "#name input, #name textarea").send_keys("abtxs")  # typing is no vote
    begin("Ann", 0)
    assert not (folder / "votes.jsonl").read_text()
    question, left, right = until(lambda: all(shown()) and shown(), "a pair")
    assert {left, right} == {f"{w} words {question[9]}" for w in ("new", "old")}
    assert "model-a" not in browser.page_source and "model-b" not in browser.page_source
    element("left").click()
    until(lambda: "Ann: 1 of 4 done" in element("progress").text, "the first vote")
    kept = lines(folder / "votes.jsonl")
    assert len(kept) == 1 and kept[0]["vote"] == ("a" if left.startswith("new") else "b") and kept[0]["left"] == kept[0]["vote"]  # fmt: skip
    press("t", "Ann", 2)
    browser.refresh()  # the browser knows its voter, who goes on where he was
    until(lambda: "Ann: 2 of 4 done" in element("progress").text and all(shown()), "the place after a reload")
    press("x", "Ann", 3)
    press(Keys.ARROW_RIGHT, "Ann", 4)
    until(lambda: "Thank you" in element("end").text and "win rate" in element("end").text, "the table")
    element("back").click()
    until(lambda: all(shown()), "the last pair again")
    press("s", "Ann", 4)
    until(lambda: len(lines(folder / "votes.jsonl")) == 5, "the changed vote on the disk")
    begin(ODD, 0)  # shown as it is typed
    press("b", ODD, 1)
    assert [(v["voter"], v["choice"]) for v in lines(folder / "votes.jsonl")] == [("Ann", c) for c in ("left", "tie", "bad", "right", "skip")] + [(ODD, "right")]  # fmt: skip
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err[-3000:]
    found = json.loads((folder / "judge.json").read_text())["figures"]
    assert out.splitlines()[0].startswith("No difference is shown between ") and "votes: 4 counted" in out
    assert found["voters"].keys() == {"Ann", ODD} and found["skipped"] == 1
    assert (folder / "report.html").is_file() and (folder / "win_rate.png").is_file()
