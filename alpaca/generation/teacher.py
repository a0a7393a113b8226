"""One question to the teacher and its reply, through the openai SDK: retries, rate limits, budget, typed errors.

Knows nothing of rows. The key is read from the environment, and appears in no message.
"""

import asyncio
import email.utils
import math
import os
import random
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alpaca.errors import UserError
from alpaca.generation import completion
from alpaca.generation.budget import Budget, Pacer
from alpaca.generation.completion import Completion, NoCompletion
from alpaca.generation.config import TeacherConfig

_FLOOR = 256  # a reply shorter than this is not worth a request: rather fewer examples
_SCHEMA = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {k: {"type": "string"} for k in ("instruction", "input", "output")},
                "required": ["instruction", "input", "output"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["items"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Reply:
    """What came back. `usage`: tokens of prompt and reply as the API counted them (or the worst case, `estimated`).

    `max_tokens`: most tokens that were allowed.
    """

    ticket: int
    text: str
    finish_reason: str
    model: str
    request_id: str
    usage: tuple[int, int]
    usd: float
    seconds: float
    attempts: int
    max_tokens: int
    estimated: bool = False


class Unanswered(UserError):
    """There is no answer to this request; perhaps to none, which others must show.

    `reason`: in a few words. `words`: what the server said. `since`: that another one, sent after this time, was answered shows it; in seconds of `time.monotonic`.
    """

    def __init__(self, message: str, reason: str, words: str, since: float) -> None:
        super().__init__(message)
        self.reason, self.words, self.since = reason, words, since


class TooLong(Unanswered):
    """The model cannot take the request, however short it is made."""


class Stopped(Exception):
    """Another request found that no further one makes sense."""


class Teacher:
    """A model behind an OpenAI-compatible address.

    `log(entry)` is called before each HTTP request (kind `sent`, with its worst case) and when the service says that a
    request was not carried out (kind `free`), so that spending is known after a crash too.
    """

    def __init__(self, config: TeacherConfig, budget: Budget, log: Callable[[dict[str, Any]], None]) -> None:
        import logging

        import openai

        for name in ("httpx", "httpx2", "openai"):  # a line a request, which the progress line says better
            logging.getLogger(name).setLevel(logging.WARNING)
        self.config, self.budget, self._log = config, budget, log
        self._key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
        try:
            self._client = openai.AsyncOpenAI(
                api_key=self._key or "none",
                base_url=config.base_url,
                max_retries=0,  # ours know the budget
                timeout=config.timeout,
                http_client=openai.DefaultAsyncHttpxClient(trust_env=not _on_this_machine(config.base_url)),
            )
        except Exception as error:  # whatever the HTTP library makes of the environment
            words = self._hide(" ".join(str(error).split()))[:200]
            raise UserError(
                f"no connection to {self._place()} can be set up ({words}): check teacher.base_url and the environment variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
            ) from None
        self._pacer = Pacer(config.requests_per_minute, config.tokens_per_minute)
        self._jitter = random.Random()
        self._refused = math.inf  # fewest tokens, of prompt and reply together, that were too long
        self.stopping = asyncio.Event()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, prompts: list[str], retries: int | None = None) -> Reply:
        """The reply to the first of `prompts`; the next ones are shorter, for when that is too long. `retries`: if other
        than the config's.

        Raises UserError where no retry can help, BudgetReached, or Stopped.
        """
        import openai

        sizes, failures, before = self._sizes(prompts), 0, time.monotonic()
        retries = self.config.retries if retries is None else retries
        while True:
            if self.stopping.is_set():
                raise Stopped
            start = time.monotonic()
            while len(sizes) > 1 and _tokens(*sizes[0]) >= self._refused:
                sizes.pop(0)
            try:
                return await self._once(*sizes[0], failures + 1, start)
            except (openai.OpenAIError, NoCompletion, TimeoutError) as error:
                if getattr(error, "status_code", None) in (400, 413, 422) and _too_long(error):
                    self._refused = min(self._refused, _tokens(*sizes.pop(0)))
                    if sizes:
                        continue
                    raise TooLong(
                        f"the request is too long for {self.config.model} even with one example ({self._words(error)}): lower source.items or source.passage_tokens, or shorten the prompt_file",
                        "too long for the teacher",
                        self._words(error),
                        time.monotonic(),
                    ) from None
                failures += 1
                wait = self._wait_for(error, failures, retries, before)
                before = time.monotonic()
                await self._pause(wait)

    async def _once(self, prompt: str, max_tokens: int, attempt: int, start: float) -> Reply:
        """One HTTP request, accounted for whatever becomes of it."""
        import openai

        prompt_tokens = len(prompt.encode()) + 64  # no tokenizer makes more tokens than bytes; the frame of a chat
        if (delay := self._pacer.delay(len(prompt) // 4 + max_tokens)) > 0:
            await self._pause(delay)
        ticket = await self.budget.reserve(prompt_tokens, max_tokens)
        usage, billed = None, True
        try:
            if self.stopping.is_set():  # while it waited for its place in the budget
                self.budget.spent.requests -= 1
                billed = False
                raise Stopped
            self._log({"kind": "sent", "ticket": ticket, "worst": [prompt_tokens, max_tokens]})
            async with asyncio.timeout(self.config.timeout):
                body = await self._send(prompt, max_tokens)
            said = completion.read(body)
            usage = said.usage or (prompt_tokens, max_tokens)
            self.budget.spent.uncounted += said.usage is None
            return self._reply(said, usage, max_tokens, ticket, attempt, start)
        except openai.APIStatusError as error:
            if _filtered(error):
                return self._reply(_REFUSED, (0, 0), max_tokens, ticket, attempt, start)
            billed = error.status_code in _MAY_BE_BILLED
            if not billed:  # the service says that it did not do the work
                self._log({"kind": "free", "ticket": ticket})
            raise
        except openai.APIConnectionError as error:
            if type(error.__cause__).__name__ in _NEVER_SENT:
                billed = False
                self._log({"kind": "free", "ticket": ticket})
            raise
        finally:
            await self.budget.settle(ticket, usage, billed)

    async def _send(self, prompt: str, max_tokens: int) -> str:
        """The body as it came: not every server is OpenAI. `post` leaves out the SDK's types, which are built for each request."""
        import openai

        config = self.config
        fields: dict[str, Any] = {"model": config.model, config.max_tokens_field: max_tokens, **config.sampling}
        if config.api == "completions":
            path, fields["prompt"] = "/completions", prompt
        else:
            path, fields["messages"] = "/chat/completions", [{"role": "user", "content": prompt}]
            if config.structured_output == "json_object":
                fields["response_format"] = {"type": "json_object"}
            elif config.structured_output == "json_schema":
                schema = {"name": "items", "schema": _SCHEMA, "strict": True}
                fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        response = await self._client.post(path, body=fields, cast_to=openai.AsyncAPIResponse[object])
        return await response.text()

    def _reply(
        self, said: Completion, usage: tuple[int, int], max_tokens: int, ticket: int, attempt: int, start: float
    ) -> Reply:
        hide = self._hide if _secret(self._key) else str
        return Reply(
            ticket=ticket,
            text=hide(said.text),
            finish_reason=said.finish_reason,
            model=hide(said.model) or self.config.model,
            request_id=hide(said.id),
            usage=usage,
            usd=self.budget.cost(*usage),
            seconds=round(time.monotonic() - start, 3),
            attempts=attempt,
            max_tokens=max_tokens,
            estimated=said.usage is None,
        )

    def _wait_for(self, error: Exception, failures: int, retries: int, before: float) -> float:
        """Seconds until the next attempt. Raises UserError where there should be none. `before`: when the last one failed."""
        import openai

        if getattr(error, "status_code", None) is not None:
            self._refuse_for_good(error)
        if failures > retries:
            message = f"the teacher failed {failures} times in a row, last with {self._words(error)}: every reply so far is saved; run the same command again when {self._place()} works"
            raise (
                Unanswered(message, "the teacher failed on it", self._words(error), before)
                if _perhaps_its_own(error)
                else UserError(message)
            )
        wait = min(self.config.backoff * 2 ** (failures - 1), self.config.backoff_max)
        wait *= self._jitter.uniform(0.5, 1.5)
        after = _retry_after(error) if isinstance(error, openai.APIStatusError) else None
        if after is not None and after > self.config.retry_after_max:
            raise UserError(
                f"{self._place()} asks to wait {after:.0f} s, longer than teacher.retry_after_max={self.config.retry_after_max:g}: run the same command again later"
            )
        return max(wait, after) if after is not None else wait

    def _refuse_for_good(self, error: Any) -> None:
        """What no retry can change, in one line."""
        status, code, words = error.status_code, f"{error.code} {error.type}", self._words(error)
        name, key = self.config.model, self.config.api_key_env
        if status == 402 or any(w in code.lower() for w in _USED_UP):
            raise UserError(f"the quota of this key is used up ({words}): add credit, then run the same command again")
        if status == 401:
            source = f"check the environment variable {key}" if key else "give teacher.api_key_env=NAME_OF_VARIABLE"
            raise UserError(f"{self._place()} does not accept the key ({words}): {source}")
        if status == 403:
            raise UserError(
                f"{self._place()} refuses this key the model {name} ({words}): use another key or teacher.model=NAME"
            )
        if status == 404:
            raise UserError(
                f"{self._place()} has no model {name} under this address ({words}): check teacher.model and teacher.base_url (it ends in /v1)"
            )
        if "max_completion_tokens" in words and self.config.max_tokens_field == "max_tokens":
            raise UserError(
                f"{self._place()} refuses the request ({words}): give teacher.max_tokens_field=max_completion_tokens"
            )
        if status < 500 and status not in (408, 409, 425, 429):
            message = f"{self._place()} refuses the request ({words}): check teacher.sampling, teacher.api, teacher.max_tokens and the credit of this key; every reply so far is saved"
            raise (
                Unanswered(message, "refused by the teacher", words, time.monotonic())
                if status in (400, 422)
                else UserError(message)
            )

    def _sizes(self, prompts: list[str]) -> list[tuple[str, int]]:
        """Prompts and most tokens of a reply, to be tried in this order: half the reply, then the next shorter prompt."""
        most = [self.config.max_tokens]
        while most[-1] // 2 >= _FLOOR:
            most.append(most[-1] // 2)
        return [(prompts[0], tokens) for tokens in most] + [(prompt, most[-1]) for prompt in prompts[1:]]

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return
        raise Stopped

    def _place(self) -> str:
        return (self.config.base_url or "the API of OpenAI").split("@")[-1]

    def _words(self, error: Exception) -> str:
        """An error for a person: one line, no key."""
        if isinstance(error, TimeoutError):
            return f"no answer within teacher.timeout={self.config.timeout:g} s"
        status, body = getattr(error, "status_code", None), getattr(error, "body", None)
        said = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
        text = said if isinstance(said, str) and said else str(error)
        if status is None and (cause := str(error.__cause__ or "")):
            text = f"{text.rstrip('.')} ({cause})"
        text = self._hide(" ".join(str(text or type(error).__name__).split()))
        return (f"status {status}: " if status and str(status) not in text else "") + text[:200]

    def _hide(self, text: str) -> str:
        """What a server says, without the key should it repeat it."""
        return text.replace(self._key, "***") if self._key else text


_TOO_LONG = (
    "context_length", "context length", "context window", "context size", "maximum context", "too long", "too many tokens",
    "max_tokens", "max_new_tokens", "max_completion_tokens", "token limit", "too large",
)  # fmt: skip
_USED_UP = (
    "insufficient_quota",
    "insufficient_user_quota",
    "exceeded_current_quota",
    "insufficient_balance",
    "billing",
    "arrear",
)
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol")
_MAY_BE_BILLED = (408, 502, 504, 520, 522, 524)  # a gateway that lost the answer
_FILTERED = ("content_filter", "content_policy_violation", "data_inspection_failed")
_REFUSED = Completion("", "content_filter", "", "", (0, 0))


def _tokens(prompt: str, max_tokens: int) -> int:
    """About how many tokens a request needs room for: enough to compare requests of one run."""
    return len(prompt.encode()) // 4 + max_tokens


def _too_long(error: Any) -> bool:
    words = f"{error.code} {error.type} {error}".lower()
    return "unsupported" not in words and "not supported" not in words and any(w in words for w in _TOO_LONG)


def _filtered(error: Any) -> bool:
    """Whether the service will not have this prompt, whatever it makes of others."""
    return error.status_code == 400 and any(w in f"{error.code} {error.type}" for w in _FILTERED)


def _perhaps_its_own(error: Any) -> bool:
    """Whether another request might be answered: not where there is no connection, or too many requests."""
    return getattr(error, "status_code", None) != 429 and type(error.__cause__).__name__ not in _NEVER_SENT


def _retry_after(error: Any) -> float | None:
    """Seconds that the server asks to wait, from `retry-after-ms` or `Retry-After` (seconds or a date)."""
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = headers.get(name, "")
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if not math.isnan(seconds):
            return max(seconds, 0.0)
    return None


def _secret(key: str) -> bool:
    """Whether a key can be one; EMPTY, none or test are words for "no key", and words of replies."""
    return len(key) >= 8 and not key.isalpha()


def _on_this_machine(base_url: str | None) -> bool:
    """Whether no proxy can stand between: a server of this machine."""
    host = urllib.parse.urlsplit(base_url or "").hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
