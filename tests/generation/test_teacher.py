"""The teacher against servers that are not OpenAI: raw bytes on a real socket, the real SDK asking."""

import asyncio
import email.utils
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from alpaca.errors import UserError
from alpaca.generation import completion
from alpaca.generation.budget import Budget
from alpaca.generation.config import BudgetConfig, TeacherConfig
from alpaca.generation.teacher import Reply, Teacher

KEY = "sk-sentinel-41"
COUNTED = {"prompt_tokens": 5, "completion_tokens": 7}
Answer = bytes | Callable[[dict[str, Any]], bytes]


def http(body: Any, status: int = 200, kind: str = "application/json", more: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    head = (
        f"HTTP/1.1 {status} S\r\ncontent-type: {kind}\r\nconnection: close\r\n{more}content-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def body(text: Any = "said", usage: Any = None, **choice: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | choice
    return {"id": "r1", "model": "m", "choices": [choice], **({} if usage is None else {"usage": usage})}


def stream(*parts: str, end: str | None) -> bytes:
    """What a server that only streams sends."""
    events: list[Any] = [{"choices": [{"index": 0, "delta": {"content": p}, "finish_reason": None}]} for p in parts]
    if end:
        events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": end}]}, {"choices": [], "usage": COUNTED}]
    return "".join(
        f"data: {json.dumps(e, ensure_ascii=False)}\n\n" for e in events
    ).encode() + b"data: [DONE]\n\n" * bool(end)


def error(status: int, message: str, code: Any = None, kind: str | None = None, more: str = "") -> bytes:
    return http({"error": {"message": message, "code": code, "type": kind}}, status, more=more)


class Asked:
    """What came of one question: the reply or the error, what the server saw, what was accounted."""

    def __init__(self, answers: list[Answer], **settings: Any) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []
        self.answers, self.pause = answers, settings.pop("pause", 0.0)
        self.settings = {"retries": 3, "backoff": 0.01, "api_key_env": "SENTINEL", **settings}
        self.reply: Reply | None = None
        self.error = ""
        asyncio.run(self._run())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        self.bodies.append(json.loads(await reader.readexactly(length)))
        answer = self.answers[min(len(self.bodies), len(self.answers)) - 1]
        data = answer if isinstance(answer, bytes) else answer(self.bodies[-1])
        for start in range(0, len(data), 40 if self.pause else len(data)):
            writer.write(data[start : start + 40 if self.pause else None])
            await writer.drain()
            await asyncio.sleep(self.pause)
        writer.close()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self.budget = Budget(BudgetConfig(), (1e-6, 1e-6))
        teacher = Teacher(TeacherConfig("t", "m", base_url=address, **self.settings), self.budget, self.log.append)
        try:
            self.reply = await teacher.ask(["prompt", "short"])
        except UserError as problem:
            self.error = str(problem)
        finally:
            await teacher.close()
            server.close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL", KEY + "\n")


@pytest.mark.parametrize(
    ("answer", "text", "usage"),
    [
        (http(body(usage=COUNTED)), "said", (5, 7)),
        (http(body(usage=COUNTED), kind="text/plain"), "said", (5, 7)),
        (http(body([{"type": "text", "text": "sa"}, {"type": "text", "text": "id"}], COUNTED)), "said", (5, 7)),
        (http(body(None, COUNTED, finish_reason=None)), "", (5, 7)),
        (http(body(usage={"prompt_tokens": "5", "completion_tokens": "7"})), "said", (5, 7)),
        (http(body(usage={"prompt_tokens": 5, "completion_tokens": None})), "said", None),
        (http(body()), "said", None),
        (http(body(usage={})), "said", None),
        (http(body(usage={"total_tokens": 12})), "said", None),
        (http({**body(usage=COUNTED), "id": None, "model": 3}), "said", (5, 7)),
        (http(stream("sa", "i\u2028", "d", end="stop"), kind="text/event-stream"), "sai\u2028d", (5, 7)),
    ],
)
def test_what_other_servers_make_of_the_format(answer: bytes, text: str, usage: tuple[int, int] | None) -> None:
    asked = Asked([answer])
    assert asked.reply is not None and asked.reply.text == text and len(asked.bodies) == 1
    assert asked.reply.usage == (usage or (6 + 64, 3072)) and asked.reply.estimated == (usage is None)
    assert asked.budget.spent.uncounted == (usage is None)


@pytest.mark.parametrize(
    "first",
    [
        http({"error": {"message": "Provider returned error", "code": 502}}),
        http({"error": "busy"}),
        http(b"<html>bad gateway</html>", kind="text/html"),
        http({"choices": []}),
        http([1]),
        error(529, "overloaded"),
        http(body(usage=COUNTED))[:-20],
        error(429, "later", more=f"retry-after: {email.utils.formatdate(time.time() - 5, usegmt=True)}\r\n"),
        error(503, "later", more="retry-after: soon\r\n"),
        error(429, "later", more="retry-after-ms: soon\r\n"),
        error(429, "later", more="retry-after: nan\r\n"),
        http(stream("broken", end=None), kind="text/event-stream"),
    ],
)
def test_what_can_pass_is_asked_again(first: bytes) -> None:
    asked = Asked([first, http(body(usage=COUNTED))])
    assert asked.reply is not None and asked.reply.text == "said" and len(asked.bodies) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http({"error": {"message": "Insufficient credits", "code": 402}}), "quota"),
        (http({"error": "model 'm' not found, try pulling it"}, 404), "try pulling it"),
        (http({"detail": "Not Found"}, 404), "Not Found"),
        (http(b"Unauthorized", 401, "text/plain"), "does not accept the key"),
        (error(401, f"Incorrect API key provided: {KEY}"), "Incorrect API key provided: ***"),
        (error(400, "'max_tokens' is not supported with this model. Use 'max_completion_tokens'.", "unsupported_parameter"), "teacher.max_tokens_field=max_completion_tokens"),
        (error(429, "no balance", None, "exceeded_current_quota_error"), "quota"),
        (error(429, "later", more="retry-after: 7200\r\n"), "asks to wait 7200 s"),
    ],
)  # fmt: skip
def test_what_cannot_pass_stops_at_once_and_says_why(answer: bytes, words: str) -> None:
    asked = Asked([answer])
    assert words in asked.error and len(asked.bodies) == 1 and KEY not in asked.error


def test_the_key_is_in_no_reply_and_no_error() -> None:
    asked = Asked([http(body(f"the key is {KEY}", COUNTED))])
    assert asked.reply is not None and asked.reply.text == "the key is ***"
    failed = Asked([error(500, f"header was Bearer {KEY}")], retries=1)
    assert "Bearer ***" in failed.error and KEY not in json.dumps([asked.log, failed.log])


def test_a_word_for_no_key_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL", "EMPTY")
    asked = Asked([http(body("The list is EMPTY.", COUNTED))])
    assert asked.reply is not None and asked.reply.text == "The list is EMPTY."


def test_no_proxy_stands_before_a_server_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    asked = Asked([http(body(usage=COUNTED))])
    assert asked.reply is not None and asked.budget.spent.requests == 1
    with pytest.raises(UserError, match="can be set up .*ALL_PROXY"):
        Teacher(TeacherConfig("t", "m", base_url="http://example.org/v1", api_key_env=None), asked.budget, print)


def test_a_server_that_is_not_there_costs_nothing_and_is_named() -> None:
    log: list[dict[str, Any]] = []

    async def ask() -> None:
        config = TeacherConfig("t", "m", base_url="http://127.0.0.1:9/v1", api_key_env=None, retries=1, backoff=0.01)
        await Teacher(config, budget, log.append).ask(["prompt"])

    budget = Budget(BudgetConfig(), (1e-6, 1e-6))
    with pytest.raises(UserError, match="failed 2 times in a row, last with Connection error .*127.0.0.1:9/v1 works"):
        asyncio.run(ask())
    assert budget.spent.lost_tokens == 0 and [e["kind"] for e in log] == ["sent", "free"] * 2


def too_long(limit: int, status: int, message: str, code: Any, kind: str) -> Callable[[dict[str, Any]], bytes]:
    def answer(request: dict[str, Any]) -> bytes:
        fits = request["max_tokens"] <= limit and (limit > 256 or request["messages"][0]["content"] == "short")
        return http(body(usage=COUNTED)) if fits else error(status, message, code, kind)

    return answer


@pytest.mark.parametrize(
    ("status", "message", "code", "kind"),
    [
        (400, "the request exceeds the available context size, try increasing it", 400, "exceed_context_size_error"),
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048", None, "validation"),
        (400, "This model's maximum context length is 2048 tokens", "context_length_exceeded", "invalid_request_error"),
        (413, "Request too large for model", "rate_limit_exceeded", "tokens"),
    ],
)
def test_too_long_in_the_words_of_several_servers(status: int, message: str, code: Any, kind: str) -> None:
    asked = Asked([too_long(800, status, message, code, kind)])
    assert [b["max_tokens"] for b in asked.bodies] == [3072, 1536, 768] and asked.reply is not None
    assert asked.reply.max_tokens == 768
    shorter = Asked([too_long(256, status, message, code, kind)], max_tokens=256)
    assert [b["messages"][0]["content"] for b in shorter.bodies] == ["prompt", "short"] and shorter.reply is not None


def test_the_time_out_is_for_the_whole_answer() -> None:
    asked = Asked([http(body("x" * 2000, COUNTED))], pause=0.1, timeout=0.4, retries=1)
    assert "no answer within teacher.timeout=0.4 s" in asked.error and len(asked.bodies) == 2


def test_a_prompt_that_the_service_will_not_have_is_no_end_of_the_run() -> None:
    asked = Asked([error(400, "The response was filtered", "content_filter")])
    assert asked.reply is not None and (asked.reply.text, asked.reply.finish_reason) == ("", "content_filter")
    assert asked.budget.spent.usd == 0


@pytest.mark.parametrize(("status", "billed"), [(500, False), (429, False), (502, True), (504, True)])
def test_a_gateway_that_lost_an_answer_may_have_cost_it(status: int, billed: bool) -> None:
    asked = Asked([error(status, "x"), http(body(usage=COUNTED))])
    assert (asked.budget.spent.lost_tokens > 0) == billed
    assert (asked.budget.spent.prompt_tokens, asked.budget.spent.requests) == (5, 2)
    replayed = Budget(BudgetConfig(), (1e-6, 1e-6))
    usage = {"usage": [5, 7], "usd": 0.0, "estimated": False}
    replayed.replay([*asked.log, {"kind": "reply", "ticket": 2, **usage}])
    assert replayed.spent.lost_tokens == asked.budget.spent.lost_tokens


@pytest.mark.parametrize(
    ("given", "counted"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4}, (9, 4)),
        ({"prompt_tokens": 9, "total_tokens": 13}, (9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": None}, None),
        ({"prompt_tokens": 9, "total_tokens": 8}, None),
    ],
)
def test_tokens_that_a_server_leaves_out_are_not_free(given: dict[str, Any], counted: tuple[int, int] | None) -> None:
    assert completion._usage(given) == counted
