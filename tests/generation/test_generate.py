"""The command as a user runs it, against a server with real sockets and the real SDK."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.commands import run_python
from tests.generation.conftest import ROOT, Teacher, bare, made_rows, rows_of, shared_rows

FAULTS = ["429", "500", "drop", "garbage", "duplicate", "rubbish", "cut"]
Start = Callable[..., Teacher]


def patched(change: str, arguments: list[str]) -> subprocess.Popen[str]:
    """The command with something of it replaced, in a Python of its own."""
    script = f"""
import os, runpy, sys, time
from alpaca.generation import journal, pipeline, reader
{change}
sys.argv = {arguments!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", script], env=env, stderr=subprocess.PIPE, text=True)


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_ten_thousand_at_thirty_percent_faults_equal_those_without(teacher: Start, tmp_path: Path) -> None:
    server = teacher(shared_rows("alpaca_data.json"))
    plain = figures(server.run(tmp_path / "plain.jsonl", "num_instructions=10000", "report=false", "dedupe.nearest=0"))
    whole = server.stats()
    server.set(rate=0.3, faults=FAULTS)
    faulty = figures(
        server.run(tmp_path / "faulty.jsonl", "num_instructions=10000", "report=false", "dedupe.nearest=0")
    )
    rows = bare(rows_of(tmp_path / "faulty.jsonl"))
    assert rows == bare(rows_of(tmp_path / "plain.jsonl"))
    assert len(rows) == len({r[0] for r in rows}) == 10_000
    stats = server.stats()
    assert stats["requests"] - whole["requests"] > 1.15 * plain["replies"], "there were no faults"
    for name in ("prompt_tokens", "completion_tokens"):
        assert plain["spent"][name] == whole[name]
        assert faulty["spent"][name] == stats[name] - whole[name]


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost_or_paid_twice(teacher: Start, tmp_path: Path) -> None:
    server, in_flight = teacher(made_rows(40_000), latency=0.06), 4
    arguments = ("num_instructions=1600", "source.items=20", f"teacher.concurrency={in_flight}", "report=false")
    arguments += ("dedupe.nearest=0",)
    whole = teacher(made_rows(40_000))
    assert figures(whole.run(tmp_path / "whole.jsonl", *arguments))["rows"] == 1600
    output, rng, kills = tmp_path / "killed.jsonl", random.Random(5), 0
    before: set[str] = set()
    while kills < 25:
        process = server.start(output, *arguments)
        had = server.stats()["requests"]
        deadline = time.monotonic() + 10  # until it works, then a random moment
        while server.stats()["requests"] == had and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.12)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -9
        lines = (tmp_path / "killed.jsonl.journal").read_bytes().split(b"\n")[:-1]
        replies = {json.loads(line)["id"] for line in lines if b'"reply"' in line}
        assert before <= replies
        before = replies
        if process.returncode == 0:
            break
    assert kills >= 20
    end = figures(server.run(output, *arguments))
    assert end["rows"] == 1600
    assert rows_of(output) == [{**r} for r in rows_of(tmp_path / "whole.jsonl")]
    assert server.stats()["repeated"] <= kills * in_flight
    lines = (tmp_path / "killed.jsonl.journal").read_text().splitlines()
    asked = [e["request"] for e in map(json.loads, lines) if e["kind"] == "reply"]
    assert len(asked) == len(set(asked)), "a saved reply was asked for again"


def test_holes_are_filled_with_fewer_in_flight(teacher: Start, tmp_path: Path) -> None:
    server, output = teacher(), tmp_path / "rows.jsonl"
    arguments = ("num_instructions=300", "report=false", "dedupe.nearest=0")
    figures(server.run(output, *arguments))
    rows, journal = rows_of(output), tmp_path / "rows.jsonl.journal"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    lost = {e["ticket"] for e in entries if e["kind"] == "reply" and e["request"] % 3 == 1}
    journal.write_text("".join(json.dumps(e) + "\n" for e in entries if e.get("ticket") not in lost))
    figures(server.run(output, *arguments, "teacher.concurrency=1"))
    replies = [json.loads(line) for line in journal.read_text().splitlines() if '"reply"' in line]
    assert rows_of(output) == rows and len(lost) > 3
    assert len(replies) == len({reply["request"] for reply in replies}), "a saved reply was asked for again"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the process in /proc")
def test_the_reading_process_ends_with_the_other_and_its_own_end_is_a_line(teacher: Start, tmp_path: Path) -> None:
    server, output = teacher(latency=0.1), tmp_path / "rows.jsonl"
    arguments = ("num_instructions=200", "source.items=20", "teacher.concurrency=2", "report=false")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for whom in ("reader", "asker"):
        command = [sys.executable, *server.arguments(output, *arguments)]
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        had = server.stats()["requests"]
        while server.stats()["requests"] == had and process.poll() is None:
            time.sleep(0.01)
        (reader,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(reader) if whom == "reader" else process.pid, signal.SIGKILL)
        said = process.communicate(timeout=20)[1]  # to the end of what its last descendant may write
        if whom == "reader":
            assert process.returncode == 2 and "Traceback" not in said
            assert "the process that reads the replies has ended (signal 9" in said.splitlines()[-1]
    assert figures(server.run(output, *arguments))["rows"] == 200
    assert server.stats()["repeated"] <= 4


def test_the_reading_process_ends_in_the_middle_of_its_work(tmp_path: Path) -> None:
    script = """
import os, signal, time
from alpaca.generation import reader
class Slow:
    def __init__(self, *_): pass
    def reasons(self): time.sleep(20)
reader.Rows = Slow
mine = reader.Reader(None, [], [], "")
mine._ask("reasons", ())
time.sleep(0.3)
print(mine._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True)
    said = process.communicate(timeout=10)[0]  # the pipe closes when the last of both is gone
    assert not Path(f"/proc/{said.strip()}/exe").exists()


def test_an_instruction_too_long_to_compare_is_dropped_or_as_a_seed_a_line(teacher: Start, tmp_path: Path) -> None:
    words = {"instruction": " ".join(f"w{i}" for i in range(66_000)), "input": "", "output": "Yes."}
    server = teacher([words, *made_rows(60)])
    settings = ("filters.max_length=100000", "report=false", "give_up_after=5")
    done = figures(server.run(tmp_path / "a.jsonl", "num_instructions=50", *settings))
    assert done["rows"] == 50 and done["dropped"]["instruction too long"]
    (tmp_path / "mine.jsonl").write_text(json.dumps(words))
    refused = server.run(tmp_path / "b.jsonl", f"dedupe.against=[{tmp_path / 'mine.jsonl'}]", *settings)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "an instruction of 66,000 tokens ('w0 w1" in refused.stderr.splitlines()[-1]


def test_continues_rederives_and_replays_without_a_request(teacher: Start, tmp_path: Path) -> None:
    server, output = teacher(), tmp_path / "rows.json"
    begun = server.run(output, "num_instructions=60", "report=false")
    assert figures(begun) and re.search(r"^about 4 requests, [\d,]+ tokens, \$0.00", begun.stderr, re.M), begun.stderr
    first, asked = rows_of(output), server.stats()["requests"]
    assert len(first) == 60
    assert len(first[30]["most_similar_instructions"]) == 10 and 0 < first[30]["avg_similarity_score"] < 0.7
    assert {"teacher", "request_id", "tokens", "usd"} <= first[0].keys() and first[0]["teacher"] == "teacher-1"
    output.unlink()
    figures(server.run(output, "num_instructions=60", "report=false"))
    assert rows_of(output) == first and server.stats()["requests"] == asked
    derived = server.run(output, "num_instructions=60", "report=false", "filters.min_length=9")
    assert figures(derived)["rows"] < 60 and server.stats()["requests"] == asked
    assert all(len(r["instruction"].split()) >= 9 for r in rows_of(output))
    assert "run the same command again" in derived.stderr
    assert figures(server.run(output, "num_instructions=60", "report=false", "filters.min_length=9"))["rows"] == 60
    other = server.run(output, "num_instructions=60", "report=false", "topic=bees and honey")
    assert other.returncode == 2 and "was begun with topic=None, now it is bees and honey" in other.stderr
    more = server.run(output, "num_instructions=90", "report=false")
    assert figures(more)["rows"] == 90 and rows_of(output)[:60] == first
    whole = tmp_path / "whole.jsonl"
    figures(server.run(whole, "num_instructions=90", "report=false"))
    strip = {"most_similar_instructions", "avg_similarity_score"}
    assert bare(rows_of(whole)) == bare(rows_of(output)) and strip <= rows_of(whole)[0].keys()


def test_a_torn_line_is_dropped_with_a_notice_and_a_broken_one_refused(teacher: Start, tmp_path: Path) -> None:
    server, output = teacher(), tmp_path / "rows.jsonl"
    figures(server.run(output, "num_instructions=60", "report=false"))
    rows, journal = rows_of(output), tmp_path / "rows.jsonl.journal"
    whole = journal.read_bytes()
    assert b'"kind": "done"' in whole[whole[:-1].rindex(b"\n") :]
    journal.write_bytes(whole[: whole[:-1].rindex(b"\n") - 30])  # in the last reply
    asked = server.stats()["requests"]
    again = server.run(output, "num_instructions=60", "report=false")
    assert figures(again)["rows"] == 60 and "torn" in again.stderr and rows_of(output) == rows
    assert server.stats()["requests"] == asked + 1
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(["{broken\n", *lines[1:]]))
    journal.write_text("".join([*lines[:-1], '{"kind": "reply", "request": 1}\n']))
    lacking = server.run(output, "num_instructions=60", "report=false")
    assert lacking.returncode == 2 and f"line {len(lines)} lacks estimated" in lacking.stderr
    journal.write_text("".join(["{broken\n", *lines[1:]]))
    broken = server.run(output, "num_instructions=60", "report=false")
    journal.rename(tmp_path / "elsewhere")
    foreign = server.run(output, "num_instructions=60", "report=false")
    assert foreign.returncode == 2 and "is there already, without the journal" in foreign.stderr
    assert rows_of(output) == rows
    assert (
        broken.returncode == 2
        and "line 1 is no line of a journal" in broken.stderr
        and "Traceback" not in broken.stderr
    )


@pytest.mark.parametrize(("cap", "value"), [("max_requests", 40), ("max_tokens", 30_000), ("max_usd", 0.06)])
def test_a_budget_is_a_hard_cap_over_all_runs(teacher: Start, tmp_path: Path, cap: str, value: float) -> None:
    server, output = teacher(made_rows(40_000), latency=0.02, rate=0.3, faults=["drop", "500"]), tmp_path / "rows.jsonl"
    prices = ["teacher.usd_per_million_input=1", "teacher.usd_per_million_output=1", f"budget.{cap}={value}"]
    for _ in range(2):
        done = server.run(output, "num_instructions=2000", "report=false", *prices)
        spent = figures(done)["spent"]
        stats = server.stats()
        tokens = stats["prompt_tokens"] + stats["completion_tokens"]
        assert {"max_requests": stats["requests"], "max_tokens": tokens, "max_usd": tokens / 1e6}[cap] <= value
        assert f"budget.{cap}" in done.stderr
        assert spent["prompt_tokens"] + spent["completion_tokens"] == tokens > 0
        assert spent["usd"] == pytest.approx(tokens / 1e6)
        assert len(rows_of(output)) + sum(figures(done)["dropped"].values()) == 20 * stats["answered"], (
            "a reply that was paid for gave no row"
        )


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "invalid_api_key", "does not accept the key"),
        (403, "", "refuses this key"),
        (404, "model_not_found", "has no model teacher-1"),
        (429, "insufficient_quota", "quota"),
        (400, "unknown_parameter", "refuses the request"),
    ],
)
def test_what_no_retry_can_mend_stops_at_once(
    teacher: Start, tmp_path: Path, status: int, code: str, words: str
) -> None:
    server = teacher(status=status, code=code)
    secret = {"SECRET_KEY": "sk-very-secret"}
    done = server.run(tmp_path / "rows.jsonl", "num_instructions=20", "teacher.api_key_env=SECRET_KEY", **secret)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "sk-very-secret" not in done.stderr + done.stdout
    assert server.stats()["requests"] <= 2
    assert all(b"sk-very-secret" not in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_what_waits_to_be_sent_is_not_sent_after_the_end(teacher: Start, tmp_path: Path) -> None:
    server = teacher(status=401)
    done = server.run(tmp_path / "rows.jsonl", "num_instructions=400", "report=false", "teacher.requests_per_minute=20")
    assert done.returncode == 2 and server.stats()["requests"] == 1


def test_retries_are_bounded_and_honour_retry_after(teacher: Start, tmp_path: Path) -> None:
    server = teacher(status=500)
    done = server.run(tmp_path / "rows.jsonl", "num_instructions=20", "teacher.retries=3", "report=false")
    assert done.returncode == 2 and "failed 4 times in a row" in done.stderr
    assert server.stats()["requests"] == 4
    waiting = teacher(rate=0.99, faults=["429 retry-after"])
    waiting.set(rate=1.0)
    more = ("num_instructions=20", "report=false", "teacher.concurrency=1")
    process = waiting.start(tmp_path / "wait.jsonl", *more)
    while waiting.stats()["requests"] < 2:
        time.sleep(0.05)
    waiting.set(rate=0.0)
    process.communicate(timeout=20)
    times = waiting.stats()["times"]
    assert process.returncode == 0 and times[1] - times[0] >= 1.0


def test_time_outs_slow_and_cut_replies_and_the_bound_on_concurrency(teacher: Start, tmp_path: Path) -> None:
    server = teacher(latency=0.02, rate=0.4, faults=["timeout", "slow", "cut"])
    options = ("num_instructions=200", "report=false", "teacher.timeout=0.8", "teacher.concurrency=3")
    done = figures(server.run(tmp_path / "rows.jsonl", *options))
    assert done["rows"] == 200 and done["dropped"]["cut by length"] > 0 and done["spent"]["lost_tokens"] > 0
    assert (
        server.stats()["peak"] <= 3 + done["spent"]["requests"] - done["replies"]
    )  # a hung one may outlive its time-out
    assert {b["max_tokens"] for b in server.stats()["bodies"]} == {3072}


def test_too_long_a_prompt_gets_a_shorter_reply_then_fewer_examples(teacher: Start, tmp_path: Path) -> None:
    server = teacher(context=1400)
    more = ("num_instructions=120", "report=false", "teacher.concurrency=1")
    assert figures(server.run(tmp_path / "rows.jsonl", *more))["rows"] == 120
    stats = server.stats()
    assert stats["bodies"][-1]["max_tokens"] == 768
    assert stats["answered"] >= 6 and stats["requests"] - stats["answered"] <= 4, "what fits is known after the first"
    server.set(context=100)
    done = server.run(tmp_path / "none.jsonl", "num_instructions=20", "report=false")
    assert done.returncode == 2 and "too long" in done.stderr


def test_a_server_that_cuts_every_reply_is_not_paid_for_each_again(teacher: Start, tmp_path: Path) -> None:
    server, output = teacher(cut_at=300), tmp_path / "rows.jsonl"
    arguments = ("num_instructions=120", "report=false", "dedupe.nearest=0")
    done = server.run(output, *arguments)
    stats, rows = server.stats(), rows_of(output)
    assert figures(done)["rows"] == 120 and stats["answered"] >= 15 and stats["repeated"] == 3
    assert done.stderr.count("ends its replies after about 300 tokens, though teacher.max_tokens=3072") == 1
    journal = tmp_path / "rows.jsonl.journal"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    lost = {e["ticket"] for e in entries if e["kind"] == "reply" and e["request"] % 3 == 1}
    journal.write_text("".join(json.dumps(e) + "\n" for e in entries if e.get("ticket") not in lost))
    figures(server.run(output, *arguments, "teacher.concurrency=1"))
    after = [json.loads(line) for line in journal.read_text().splitlines()][len(entries) - len(lost) :]
    asked = [e["request"] for e in after if e["kind"] == "reply"]
    assert rows_of(output) == rows and 3 < len(asked) <= len(lost)
    assert {number % 3 for number in asked} == {1}, "a saved reply was asked for again"


def test_rate_limits_pace_the_requests(teacher: Start, tmp_path: Path) -> None:
    server = teacher()
    figures(
        server.run(tmp_path / "rows.jsonl", "num_instructions=100", "report=false", "teacher.requests_per_minute=300")
    )
    times = server.stats()["times"]
    assert len(times) >= 5 and times[-1] - times[0] > 0.5 * 0.2 * (len(times) - 1)  # one in 0.2 s, some a little late


def test_json_replies_and_plain_completions(teacher: Start, tmp_path: Path) -> None:
    server = teacher()
    more = ("num_instructions=40", "report=false")
    wanted = ("teacher.reply_format=json", "teacher.structured_output=json_schema")
    assert figures(server.run(tmp_path / "json.jsonl", *more, *wanted))["dropped"] == {}
    assert server.stats()["bodies"][-1]["response_format"]["type"] == "json_schema"
    assert figures(server.run(tmp_path / "plain.jsonl", *more, "teacher.api=completions"))["rows"] == 40
    assert server.stats()["bodies"][-1]["prompt"].endswith("1. Instruction:")


def test_rows_kept_are_mixed_in_alike_whenever_replies_come(teacher: Start, tmp_path: Path) -> None:
    server = teacher()
    options = ("num_instructions=300", "report=false", "source.examples=8", "source.pool_fraction=0.25")
    figures(server.run(tmp_path / "a.jsonl", *options))
    own = {r["instruction"] for r in rows_of(tmp_path / "a.jsonl")}
    assert sum(i in server.stats()["bodies"][-1]["messages"][0]["content"] for i in own) == 2
    server.set(latency=0.05, rate=0.3, faults=FAULTS)
    figures(server.run(tmp_path / "b.jsonl", *options))
    assert bare(rows_of(tmp_path / "a.jsonl")) == bare(rows_of(tmp_path / "b.jsonl"))


def test_a_second_process_is_refused(teacher: Start, tmp_path: Path) -> None:
    server, output = teacher(latency=8.0), tmp_path / "rows.jsonl"
    first = server.start(output, "num_instructions=40", "report=false")
    while not server.stats()["requests"]:
        time.sleep(0.05)
    second = server.run(output, "num_instructions=40")
    assert second.returncode == 2 and "in use by another process" in second.stderr
    assert first.communicate(timeout=90) and first.returncode == 0 and len(rows_of(output)) == 40


def test_a_run_that_is_stopped_ends_with_a_line_and_the_next_goes_on(teacher: Start, tmp_path: Path) -> None:
    server, output = teacher(latency=0.2), tmp_path / "rows.jsonl"
    more = ("num_instructions=400", "report=false", "teacher.concurrency=2")
    for number, code in ((signal.SIGINT, 130), (signal.SIGHUP, 129)):
        process, had = server.start(output, *more), server.stats()["requests"]
        while server.stats()["requests"] < had + 6:
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=20)
        assert process.returncode == code and "run the same command again" in error and "Traceback" not in error
    early = "from alpaca import cli; cli.check_overrides = lambda *_: os.kill(os.getpid(), 2)"
    assert patched(early, server.arguments(output, *more)).communicate()[1] == "stopped by Ctrl-C\n"
    slow = patched("reader.Rows.wanting_all = lambda *_: time.sleep(60)", server.arguments(output, *more))
    assert slow.stderr is not None and "replies replayed" in slow.stderr.readline()
    slow.send_signal(signal.SIGINT)  # while a journal is replayed
    assert "run the same command again" in slow.communicate(timeout=10)[1] and slow.returncode == 130
    assert figures(server.run(output, *more))["rows"] == 400
    assert server.stats()["repeated"] <= 4


def test_replies_are_on_the_disk_at_once_and_before_they_are_read(teacher: Start, tmp_path: Path) -> None:
    server = teacher(latency=0.1)
    change = """
there, late, early = {}, [], []
append, sync, look = journal.Journal.append, journal.Journal.sync, reader.Reader.wanting_later
def appended(self, entry, sync=True):
    append(self, entry, sync)
    if entry["kind"] == "reply":
        there[entry["ticket"]] = time.monotonic()
def synced(self):
    mine = dict(there)
    sync(self)
    for ticket, at in mine.items():
        if there.pop(ticket, None):
            late.append(time.monotonic() - at)
def looked(self, replies):
    early.extend(r["ticket"] for r in replies if r["ticket"] in there)
    return look(self, replies)
def slow(self, requests, work=reader.Rows.apply_all):
    time.sleep(1.5)
    return work(self, requests)
journal.Journal.append, journal.Journal.sync, reader.Reader.wanting_later = appended, synced, looked
reader.Rows.apply_all = slow
pipeline.finish = lambda *_: print("late", len(late), max(late), "early", len(early), file=sys.stderr)
"""
    more = ("num_instructions=100", "source.items=10", "report=false", "teacher.concurrency=2")
    done = patched(change, server.arguments(tmp_path / "rows.jsonl", *more))
    said = done.communicate(timeout=60)[1].splitlines()[-1].split()
    assert done.returncode == 0 and said[0] == "late" and int(said[1]) >= 5 and said[3:] == ["early", "0"]
    assert float(said[2]) < 0.75, "a reply waited for others to be read"


def test_a_full_disk_stops_with_a_line_and_loses_nothing(teacher: Start, tmp_path: Path) -> None:
    server, output = teacher(), tmp_path / "rows.jsonl"

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = [sys.executable, *server.arguments(output, "num_instructions=400", "report=false")]
    full = subprocess.run(arguments, env=env, capture_output=True, text=True, preexec_fn=small_disk)
    assert full.returncode == 2 and "make room" in full.stderr and "Traceback" not in full.stderr, full.stderr
    journal = (tmp_path / "rows.jsonl.journal").read_text().splitlines()
    saved = {e["request"] for e in map(json.loads, journal) if e["kind"] == "reply"}
    assert saved
    assert figures(server.run(output, "num_instructions=400", "report=false"))["rows"] == 400
    after = [
        e["request"]
        for e in map(json.loads, (tmp_path / "rows.jsonl.journal").read_text().splitlines())
        if e["kind"] == "reply"
    ]
    assert len(after) == len(set(after)) and saved <= set(after)


def test_a_teacher_that_gives_nothing_new_is_left(teacher: Start, tmp_path: Path) -> None:
    server = teacher(made_rows(20))
    done = server.run(tmp_path / "rows.jsonl", "num_instructions=1000", "report=false", "give_up_after=4")
    assert done.returncode == 2 and "gave no new row" in done.stderr and "resembles a kept row" in done.stderr
    assert len(rows_of(tmp_path / "rows.jsonl")) == 20
    explained = rows_of(tmp_path / "rows.jsonl.dropped")
    assert explained[0]["resembles"] in {r["instruction"] for r in rows_of(tmp_path / "rows.jsonl")}
    had = server.stats()["requests"]
    again = server.run(
        tmp_path / "rows.jsonl", "num_instructions=1000", "report=false", "give_up_after=4", "teacher.concurrency=2"
    )
    assert again.returncode == 2 and "gave no new row" in again.stderr
    assert 1 <= server.stats()["requests"] - had <= 4 + 2, "it may be tried again, for a bounded price"
    better = teacher(made_rows(4000, seed=7))
    more = ("num_instructions=100", "report=false", "give_up_after=4", "teacher.model=better")
    assert figures(better.run(tmp_path / "rows.jsonl", *more))["rows"] == 100, "the advice was followed"


def test_a_derivation_that_was_killed_is_done_again_without_a_request(teacher: Start, tmp_path: Path) -> None:
    server, output = teacher(), tmp_path / "rows.jsonl"
    figures(server.run(output, "num_instructions=60", "report=false"))
    had, before = server.stats()["requests"], output.read_bytes()
    changed = ("num_instructions=60", "report=false", "filters.min_length=9")
    assert patched("pipeline.finish = lambda *_: os._exit(9)", server.arguments(output, *changed)).wait() == 9
    assert output.read_bytes() == before
    derived = server.run(output, *changed)
    assert figures(derived)["rows"] < 60 and server.stats()["requests"] == had, "it was to be derived, not asked for"
    assert figures(server.run(output, *changed))["rows"] == 60 and server.stats()["requests"] > had


def test_chinese_rows_from_a_real_set(teacher: Start, tmp_path: Path) -> None:
    rows = shared_rows("chinese_medical.jsonl")[:2000]
    server = teacher(rows, rate=0.5, faults=["duplicate"])
    done = figures(server.run(tmp_path / "zh.jsonl", "num_instructions=1000", "language=zh", "report=false"))
    kept = rows_of(tmp_path / "zh.jsonl")
    assert done["rows"] == 1000 and len({r["instruction"] for r in kept}) == 1000
    copies = done["dropped"]["resembles a kept row"]
    filtered = sum(n for reason, n in done["dropped"].items() if not reason.startswith("resembles"))
    assert copies > 300, done["dropped"]  # every second reply holds each row twice
    assert filtered < 0.03 * (1000 + filtered), done["dropped"]  # valid rows are not taken for rubbish
    assert all(m["score"] <= 0.7 for r in kept for m in r["most_similar_instructions"])


@pytest.mark.slow
def test_the_file_trains(teacher: Start, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    figures(teacher().run(output, "num_instructions=40", "report=false"))
    command = ["train.py", "data=custom", f"data.path={output}", "trainer.max_steps=2"]
    command += ["batch.global_size=4", "batch.per_device=4", "check_saved=false", f"hydra.run.dir={tmp_path / 'run'}"]
    run_python(*command)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "completed"


def test_dry_run_asks_nothing(teacher: Start, tmp_path: Path) -> None:
    server = teacher()
    topic = '油井测井, oil-well "logging" {x} = ${y}'
    done = server.run(tmp_path / "rows.jsonl", "dry_run=true", "language=zh", f"topic={topic}")
    assert done.returncode == 0 and f"：{topic}。" in done.stdout and re.search(r"requests: +about 63", done.stdout)
    assert server.stats()["requests"] == 0 and not list(tmp_path.glob("rows*"))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("teacher.model=unheard-of", "price of teacher.model=unheard-of is not known"),
        ("teacher.concurrency=0", "whole number of 1 or more"),
        ("output=rows.csv", ".jsonl or .json"),
        ("teacher.modle=x", "did you mean"),
        ("source=corpus", "source.path is missing"),
        ("dedupe.threshold=7", "from 0 to 1"),
        ("num_instructions=1", "OPENAI_API_KEY is not set"),
        ("language=chinese", "a code such as en"),
        ("teacher.sampling.n=2", "one reply a request"),
        ("output=/dev/null/rows.jsonl teacher=local teacher.model=m", "give another output=FILE"),
    ],
)
def test_what_a_user_may_get_wrong_is_a_line(tmp_path: Path, argument: str, words: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}
    done = forks.run([str(ROOT / "generate_data.py"), *argument.split()], tmp_path, env)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    shutil.rmtree(tmp_path / "outputs", ignore_errors=True)
    assert not list(tmp_path.iterdir()), "a refused run leaves nothing behind"
