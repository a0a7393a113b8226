"""The OpenAI API, spoken to with the real SDK over a real socket, and by generate_data.py."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import uvicorn

from alpaca import serving
from alpaca.decoding import Sampling
from alpaca.errors import UserError
from alpaca.infer_config import ServeConfig
from alpaca.inference import Loaded, load_run
from alpaca.results import RunFolder
from tests.commands import compose, run_python
from tests.tiny import TINY_ROWS

COUNT = TINY_ROWS[-1]["output"]


class Running:
    """A server in a thread; `address` ends in /v1."""

    def __init__(self, loaded: Loaded, **settings: object) -> None:
        config = ServeConfig("openai", **settings)  # type: ignore[arg-type]
        app = serving.build(loaded, "tiny", Sampling(max_new_tokens=200), config)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        listener = serving.listen("127.0.0.1", 0, "serve")
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.address, api_key=key, max_retries=0, timeout=120)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)


@pytest.fixture(scope="module")
def server(tiny_run: Path) -> Iterator[Running]:
    running = Running(load_run(RunFolder(tiny_run)))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return server.client()


def say(text: str) -> list:
    return [{"role": "user", "content": text}]


def test_whole_answers_in_the_saved_prompt(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").object == "model"
    reply = client.chat.completions.create(model="tiny", messages=say("Say word 1."))
    assert reply.choices[0].message.content == TINY_ROWS[1]["output"]
    assert reply.choices[0].finish_reason == "stop" and reply.object == "chat.completion"
    assert reply.usage and reply.usage.completion_tokens == 4 and reply.usage.prompt_tokens > 10
    given = client.chat.completions.create(
        model="tiny", messages=say("Say word 3."), extra_body={"input": "loudly"}, seed=1, temperature=0
    )
    assert given.choices[0].message.content == TINY_ROWS[3]["output"]
    text = client.completions.create(model="tiny", prompt="Say word 1.")
    framed = client.completions.create(model="tiny", prompt="### Instruction:\nSay word 1.\n\n### Response:\n")
    assert text.choices[0].text == framed.choices[0].text == TINY_ROWS[1]["output"]
    raw = client.completions.create(model="tiny", prompt="Say word 1.", extra_body={"raw": True}, max_tokens=3)
    assert raw.usage and raw.usage.prompt_tokens < text.usage.prompt_tokens  # type: ignore[union-attr]
    cut = client.chat.completions.create(model="tiny", messages=say("Count to sixty."), max_completion_tokens=5)
    assert cut.choices[0].finish_reason == "length"
    stopped = client.chat.completions.create(model="tiny", messages=say("Count to sixty."), stop=["11"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("1 2 3 4 5 6 7 8 9 10", "stop")


def test_streamed_answers_come_in_pieces(client: openai.OpenAI) -> None:
    events = list(
        client.chat.completions.create(
            model="tiny", messages=say("Count to sixty."), stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [e.choices[0].delta.content for e in events if e.choices and e.choices[0].delta.content]
    assert len(pieces) > 5 and "".join(pieces) == COUNT
    assert events[0].choices[0].delta.role == "assistant" and events[-2].choices[0].finish_reason == "stop"
    assert events[-1].usage and events[-1].usage.completion_tokens == 107
    texts = [e.choices[0].text for e in client.completions.create(model="tiny", prompt="Count to sixty.", stream=True)]
    assert "".join(texts) == COUNT


def test_what_a_text_prompt_has_no_room_for_is_said(client: openai.OpenAI) -> None:
    turns = [*say("Say word 2."), {"role": "assistant", "content": "gold"}, *say("Say word 1.")]
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=turns)  # type: ignore[arg-type]
    assert raw.parse().choices[0].message.content == TINY_ROWS[1]["output"]
    assert "earlier turns were not seen" in raw.headers["x-alpaca-note"]


FAULTS = {
    "unknown model": ({"model": "gpt-4"}, openai.NotFoundError, "model_not_found", "this is 'tiny'"),
    "too long": (
        {"messages": say("long " * 2000)},
        openai.BadRequestError,
        "context_length_exceeded",
        "the model takes 1024",
    ),
    "temperature": ({"temperature": -1}, openai.BadRequestError, None, "temperature"),
    "top_p": ({"top_p": 0}, openai.BadRequestError, None, "top_p"),
    "max_tokens": ({"max_tokens": 0}, openai.BadRequestError, None, "max_tokens"),
    "no messages": ({"messages": []}, openai.BadRequestError, None, "messages"),
    "no user": ({"messages": [{"role": "system", "content": "x"}]}, openai.BadRequestError, None, "no user message"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        openai.BadRequestError,
        None,
        "takes a text",
    ),
    "role": ({"messages": [{"role": "robot", "content": "x"}]}, openai.BadRequestError, None, "role='robot'"),
    "n": ({"n": 2}, openai.BadRequestError, "unsupported", "n=2 is not done here"),
    "logprobs": ({"logprobs": True}, openai.BadRequestError, "unsupported", "logprobs"),
    "stop": ({"stop": [""]}, openai.BadRequestError, None, "empty text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_as_openai_tells_them(fault: str, client: openai.OpenAI) -> None:
    changes, kind, code, words = FAULTS[fault]
    with pytest.raises(kind) as told:
        client.chat.completions.create(**({"model": "tiny", "messages": say("hi")} | changes))  # type: ignore[call-overload]
    assert words in told.value.message and told.value.code == code and told.value.type == "invalid_request_error"


def test_paths_and_bodies_that_are_not_there(server: Running) -> None:
    import httpx

    assert httpx.get(server.address + "/nothing").json()["error"]["type"] == "invalid_request_error"

    def told(content: bytes) -> tuple[int, str]:
        reply = httpx.post(
            server.address + "/chat/completions", content=content
        )  # without a content type, as scripts do
        return reply.status_code, reply.json().get("error", {}).get("message", "")

    assert told(b'{"model":') == (400, "the body is no JSON (Expecting value)")
    asked = b'{"model": "tiny", "max_tokens": 5, "max_completion_tokens": 2, "messages": [{"role": "user", "content": "%s"}]}'
    assert told(asked % b"Count") == (200, "")
    status, words = told(asked % rb"half \ud83d")
    assert status == 400 and "half a surrogate pair" in words


def test_many_at_once_each_get_their_own_answer(client: openai.OpenAI) -> None:
    def ask(i: int) -> str:
        row = TINY_ROWS[i % 15]
        extra = {"input": row["input"]}
        reply = client.chat.completions.create(model="tiny", messages=say(row["instruction"]), extra_body=extra)
        return reply.choices[0].message.content or ""

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(ask, range(40))) == [TINY_ROWS[i % 15]["output"] for i in range(40)]


def test_a_full_queue_a_key_and_a_client_that_goes_away(tiny_run: Path) -> None:
    running = Running(load_run(RunFolder(tiny_run)), at_once=1, queue=1, api_key="secret")
    try:
        with pytest.raises(openai.AuthenticationError):
            running.client("wrong").models.list()
        client = running.client("secret")
        # the second waits behind the first, and the third is told to come again
        first = client.chat.completions.create(model="tiny", messages=say("Count to sixty."), stream=True)
        next(iter(first))
        second = client.chat.completions.create(model="tiny", messages=say("Count to sixty."), stream=True)
        told = 0
        for _ in range(3):
            try:
                client.chat.completions.create(model="tiny", messages=say("Say word 1."))
            except openai.RateLimitError as error:
                told += error.code == "queue_full"
        first.close()
        second.close()
        for _ in range(100):  # their places become free
            try:
                reply = client.chat.completions.create(model="tiny", messages=say("Say word 1."))
                break
            except openai.RateLimitError:
                time.sleep(0.1)
        assert reply.choices[0].message.content == TINY_ROWS[1]["output"]
    finally:
        running.stop()


def test_a_failure_is_an_error_and_the_next_request_is_answered(
    server: Running, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alpaca import decoding

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "pick", lambda *a: (_ for _ in ()).throw(RuntimeError("broken inside")))
        with pytest.raises(openai.InternalServerError) as told:
            client.chat.completions.create(model="tiny", messages=say("Say word 1."))
        assert "broken inside" not in told.value.message and told.value.type == "server_error"
        with pytest.raises(openai.APIError, match="the model failed"):
            list(client.chat.completions.create(model="tiny", messages=say("Say word 1."), stream=True))
    reply = client.chat.completions.create(model="tiny", messages=say("Say word 1."))
    assert reply.choices[0].message.content == TINY_ROWS[1]["output"]


def test_an_address_that_is_taken() -> None:
    taken = serving.listen("127.0.0.1", 0, "serve")
    taken.listen()
    with pytest.raises(UserError, match=r"serve.port=\d+ cannot be listened on"):
        serving.listen("127.0.0.1", taken.getsockname()[1], "serve")
    with pytest.raises(UserError, match="serve.host"):
        serving.listen("256.1.1.1", 0, "serve")
    taken.close()


@pytest.mark.slow
def test_generate_data_has_a_tuned_model_as_its_teacher(tmp_path: Path) -> None:
    """A small run learns to reply as a teacher does; its rows arrive in the file."""
    from alpaca.launch import launch

    reply = "Instruction: Name a warm colour.\n1. Input:\n<noinput>\n1. Output:\nRed is a warm colour.\n###"
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"instruction": "Make 20 tasks.", "input": "", "output": "1. " + reply}) + "\n"
    )
    (tmp_path / "prompt.txt").write_text("Make {n} tasks.")
    sizes = ["vocab_size=300", "architecture.hidden_size=64", "architecture.num_attention_heads=2"]
    sizes += ["architecture.num_key_value_heads=2", "architecture.num_hidden_layers=1"]
    config = compose(
        *(f"model.{s}" for s in sizes),
        "data=custom",
        f"data.path={tmp_path / 'rows.jsonl'}",
        f"data.cache={tmp_path / 'cache'}",
        "batch.global_size=1",
        "batch.per_device=1",
        "trainer.num_train_epochs=60",
        "trainer.learning_rate=5e-3",
        "trainer.save_strategy=no",
        "rehearse_save=false",
        "check_saved=false",
    )
    launch(config, tmp_path / "run")
    running = Running(load_run(RunFolder(tmp_path / "run")))
    try:
        output = tmp_path / "made.jsonl"
        run_python(
            "generate_data.py",
            "teacher=local",
            f"teacher.base_url={running.address}",
            "teacher.model=tiny",
            "teacher.sampling.temperature=0",
            f"prompt_file={tmp_path / 'prompt.txt'}",
            f"output={output}",
            "num_instructions=1",
            "report=false",
        )
    finally:
        running.stop()
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [(r["instruction"], r["output"]) for r in rows] == [("Name a warm colour.", "Red is a warm colour.")]
