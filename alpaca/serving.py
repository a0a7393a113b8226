"""The OpenAI API over HTTP for one model: chat and text completions, streamed or whole, in the prompt it was tuned with.

A text prompt has room for one question: of a chat it is given the system text and the last user message, which a header
and the log say. A chat template is given all of it.
"""

import json
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from alpaca import console
from alpaca.api_schema import ApiError, Asked, ChatRequest, TextRequest, refuse_unknown, sampling_for
from alpaca.decoding import Sampling
from alpaca.errors import UserError
from alpaca.infer_config import InferConfig, ServeConfig
from alpaca.loaded import Loaded
from alpaca.streams import Busy, Stream, Streams, explain
from alpaca.web import listen


def run(config: InferConfig, loaded: Loaded, sampling: Sampling) -> None:
    """Serve until Ctrl-C. Raises UserError where the address is taken."""
    import uvicorn

    settings = config.serve
    name = settings.model or model_name(config)
    listener = listen(settings.host, settings.port, "serve")
    listener.listen()  # who reads the address below may connect at once
    port = listener.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    console.say(f"model {name} on http://{host}:{port}/v1   (Ctrl-C ends it)")
    if settings.host not in ("127.0.0.1", "localhost", "::1") and not settings.api_key:
        console.warn("everyone who reaches this address can use the model: give serve.api_key=…")
    console.say(
        "Ask it:\n"
        f"  python generate_data.py teacher=local teacher.base_url=http://{host}:{port}/v1 teacher.model={name}\n"
        f"  curl http://{host}:{port}/v1/chat/completions -H 'Content-Type: application/json' "
        f"""-d '{{"model": "{name}", "messages": [{{"role": "user", "content": "Name three primary colours."}}]}}'"""
    )
    app = build(loaded, name, sampling, settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3, lifespan="off"))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        console.say("stopped")


def model_name(config: InferConfig) -> str:
    """What clients call the model: the last part of where it came from."""
    return Path(config.adapter or config.run or config.model or "model").resolve().name


def build(loaded: Loaded, name: str, sampling: Sampling, settings: ServeConfig) -> FastAPI:
    """The application; `sampling` is what a request does not say."""
    api = Api(loaded, name, sampling, settings)
    app = FastAPI(title=name, docs_url=None, redoc_url=None, openapi_url=None, strict_content_type=False)
    app.add_api_route("/v1/models", api.models, methods=["GET"])
    app.add_api_route("/v1/models/{model:path}", api.model, methods=["GET"])
    app.add_api_route("/v1/chat/completions", api.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/completions", api.text, methods=["POST"], response_model=None)

    @app.middleware("http")
    async def check_key(request: Request, proceed: Any) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if settings.api_key and not secrets.compare_digest(given.encode(), settings.api_key.encode()):
            return as_json(ApiError(401, "the API key is missing or wrong", code="invalid_api_key"))
        return await proceed(request)

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return as_json(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return as_json(ApiError(400, f"the body is no JSON ({first['ctx']['error']})"))
        place = ".".join(str(p) for p in first["loc"] if p != "body")
        return as_json(ApiError(400, f"{place}: {first['msg']}".lstrip(": "), param=place or None))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        return as_json(ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))

    @app.exception_handler(Exception)
    async def on_fault(request: Request, error: Exception) -> Response:
        return as_json(ApiError(500, explain(error), kind="server_error"))

    return app


def as_json(error: ApiError) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse({"error": error.body()}, error.status, headers)


class Api:
    """The routes."""

    def __init__(self, loaded: Loaded, name: str, sampling: Sampling, settings: ServeConfig) -> None:
        self.loaded, self.name, self.sampling = loaded, name, sampling
        self.streams = Streams(loaded, settings.at_once, settings.queue)
        self.created = int(time.time())
        # whoever waits for a token holds a thread meanwhile
        self._waiters = anyio.CapacityLimiter(settings.at_once + settings.queue + 1)
        self._said = False

    async def models(self) -> dict[str, Any]:
        """GET /v1/models."""
        return {"object": "list", "data": [self._card()]}

    async def model(self, model: str) -> dict[str, Any]:
        """GET /v1/models/NAME."""
        self._check(model)
        return self._card()

    async def chat(self, asked: ChatRequest, request: Request) -> Response:
        """POST /v1/chat/completions."""
        self._check(asked.model)
        refuse_unknown(asked)
        question, note = self._chat_question(asked)
        return await self._answer(asked, question, request, chat=True, note=note)

    async def text(self, asked: TextRequest, request: Request) -> Response:
        """POST /v1/completions: the text is put into the prompt, unless it stands in it already or `raw` is true."""
        self._check(asked.model)
        refuse_unknown(asked)
        texts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        if len(texts) != 1:
            raise ApiError(400, "prompt takes one text a request", param="prompt")
        text = texts[0]
        if not text.strip():
            raise ApiError(400, "prompt is empty", param="prompt")
        rendered = text if asked.raw or framed(self.loaded, text) else self._render(text, asked.input)
        return await self._answer(asked, self._encode(rendered), request, chat=False)

    def _card(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "local"}

    def _check(self, model: str) -> None:
        if model != self.name:
            raise ApiError(
                404, f"the model {model!r} is not here: this is {self.name!r}", param="model", code="model_not_found"
            )

    def _render(self, instruction: str, given: str) -> str:
        try:
            return self.loaded.prompt.render(instruction, given, self.loaded.tokenizer)
        except UserError as error:
            raise ApiError(400, str(error)) from None

    def _encode(self, text: str) -> list[int]:
        try:
            return self.loaded.encode(text)
        except UserError as error:
            raise ApiError(400, str(error)) from None

    def _chat_question(self, asked: ChatRequest) -> tuple[list[int], str | None]:
        """Token ids of a chat, and what of it the prompt has no room for."""
        turns = asked.turns()
        prompt, tokenizer = self.loaded.prompt, self.loaded.tokenizer
        if prompt.kind == "chat":
            if prompt.system and turns[0]["role"] != "system":
                turns = [{"role": "system", "content": prompt.system}, *turns]
            try:
                text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            except Exception as error:
                raise ApiError(400, f"the chat template refuses these messages: {error}", param="messages") from None
            return self._encode(text), None
        systems = [t["content"] for t in turns if t["role"] == "system"]
        users = [t["content"] for t in turns if t["role"] == "user"]
        if not users or not users[-1].strip():
            raise ApiError(400, "messages hold no user message with a text", param="messages")
        note = None
        if len(turns) > len(systems) + 1:
            note = f"the prompt {prompt.name} has room for one question: earlier turns were not seen"
            if not self._said:
                self._said = True
                console.warn(note)
        return self._encode(self._render("\n\n".join([*systems, users[-1]]), asked.input)), note

    async def _answer(
        self, asked: Asked, question: list[int], request: Request, *, chat: bool, note: str | None = None
    ) -> Response:
        sampling = sampling_for(asked, self.sampling, seed=secrets.randbelow(2**31))
        try:
            stream = self.streams.ask(question, sampling)
        except UserError as error:
            raise ApiError(400, str(error), param="messages", code="context_length_exceeded") from None
        except Busy as error:
            raise ApiError(429, str(error), kind="rate_limit_error", code="queue_full") from None
        reply = Reply(self.name, chat, len(question))
        headers = {"X-Alpaca-Note": note} if note else {}
        if asked.stream:
            usage = bool((asked.stream_options or {}).get("include_usage"))
            events = self._events(stream, reply, usage)
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        try:
            done = False
            while not done:
                _, done = await self._wait(stream)
                if await request.is_disconnected():
                    stream.cancel()
        except Exception as error:
            raise ApiError(500, explain(error), kind="server_error") from None
        finally:
            stream.cancel()
        return JSONResponse(reply.whole(stream), headers=headers)

    async def _wait(self, stream: Stream) -> tuple[str, bool]:
        return await anyio.to_thread.run_sync(stream.wait, limiter=self._waiters)

    async def _events(self, stream: Stream, reply: "Reply", usage: bool) -> AsyncIterator[str]:
        """Server-sent events; a client that goes away cancels its answer."""
        try:
            yield reply.event("", None, first=True)
            shown, done = "", False
            while not done:
                text, done = await self._wait(stream)
                if len(text) > len(shown) and text.startswith(shown):
                    yield reply.event(text[len(shown) :], None)
                    shown = text
            yield reply.event("", reply.reason(stream))
            if usage:
                yield reply.event("", None, usage=reply.usage(stream))
        except Exception as error:  # the status is sent already: the clients look for an error among the events
            yield f"data: {json.dumps({'error': ApiError(500, explain(error), kind='server_error').body()})}\n\n"
        finally:
            stream.cancel()
        yield "data: [DONE]\n\n"


class Reply:
    """One reply's bodies, whole and in pieces."""

    def __init__(self, model: str, chat: bool, prompt_tokens: int) -> None:
        self.chat, self.prompt_tokens = chat, prompt_tokens
        prefix, kind = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self._kind = kind
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    @staticmethod
    def reason(stream: Stream) -> str:
        """Why it ended, in OpenAI's words."""
        return "length" if stream.answer.stopped == "length" else "stop"

    def usage(self, stream: Stream) -> dict[str, int]:
        """Tokens of prompt and answer."""
        made = stream.answer.tokens
        total = self.prompt_tokens + made
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": made, "total_tokens": total}

    def whole(self, stream: Stream) -> dict[str, Any]:
        """The body of a reply that is not streamed."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.reason(stream), "logprobs": None}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": stream.answer.text, "refusal": None}
        else:
            choice["text"] = stream.answer.text
        return self._head | {"object": self._kind, "choices": [choice], "usage": self.usage(stream)}

    def event(self, text: str, reason: str | None, *, first: bool = False, usage: dict[str, int] | None = None) -> str:
        """A piece as a server-sent event."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if self.chat:
            role = {"role": "assistant"} if first else {}
            choice["delta"] = role | ({"content": text} if text or first else {})
        else:
            choice["text"] = text
        kind = "chat.completion.chunk" if self.chat else self._kind
        body = self._head | {"object": kind, "choices": [] if usage else [choice]}
        if usage:
            body |= {"usage": usage}
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def framed(loaded: Loaded, text: str) -> bool:
    """Whether a text stands in the saved prompt already, from its first word to its last."""
    prompt = loaded.prompt
    if prompt.kind == "chat":
        return False
    for template in (prompt.with_input, prompt.without_input):
        head, _, rest = template.partition("{instruction}")
        tail = rest.rpartition("{input}")[2] if "{input}" in rest else rest
        if head and tail and text.startswith(head) and text.endswith(tail):
            return True
    return False
