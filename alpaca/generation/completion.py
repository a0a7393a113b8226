"""The body of an answer -> what the teacher said and what it cost, whatever a server makes of OpenAI's format.

Knows no SDK and no requests.
"""

import json
import re
from dataclasses import dataclass
from typing import Any


class NoCompletion(Exception):
    """A status of 200 with something else in the body. `status`: the one that the body names, if it holds an error."""

    def __init__(self, words: str, status: int | None = None, code: str = "") -> None:
        super().__init__(words)
        self.status_code, self.code, self.type = status, code, ""


@dataclass(frozen=True)
class Completion:
    """What a body says. `usage`: tokens of prompt and reply, None where the server did not count."""

    text: str
    finish_reason: str
    model: str
    id: str
    usage: tuple[int, int] | None


def read(body: str) -> Completion:
    """Raises NoCompletion."""
    try:
        data = _joined(body) if body.lstrip().startswith(("data:", "event:", ":")) else json.loads(body)
    except (ValueError, RecursionError):
        raise NoCompletion(f"the answer is no JSON: {' '.join(body[:60].split())!r}") from None
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise _no_choice(data)
    message = choice.get("message")
    said = (
        choice.get("text") if not isinstance(message, dict) else _first(message.get("content"), message.get("refusal"))
    )
    return Completion(
        text=_text(said),
        finish_reason=_text(choice.get("finish_reason")),
        model=_text(data.get("model")),
        id=_text(data.get("id")),
        usage=_usage(data.get("usage")),
    )


def _joined(body: str) -> Any:
    """The answer of a server that only streams (server-sent events), put together as one. Raises ValueError."""
    lines = [line[5:].strip() for line in re.split("\r\n|\r|\n", body) if line.startswith("data:")]
    events = [e for e in map(json.loads, (x for x in lines if x and x != "[DONE]")) if isinstance(e, dict)]
    merged: dict[str, Any] = {}
    said, reason = "", None
    for event in events:
        merged |= {k: v for k, v in event.items() if v and k != "choices"}
        for choice in event.get("choices") or []:
            if isinstance(choice, dict) and not choice.get("index"):
                delta = choice.get("delta") or choice.get("message") or {}
                said += _text(_first(delta.get("content"), delta.get("refusal"), choice.get("text")))
                reason = choice.get("finish_reason") or reason
    if "[DONE]" not in lines and reason is None:
        raise ValueError("the stream broke off")
    return merged if merged.get("error") else merged | {"choices": [{"text": said, "finish_reason": reason}]}


def _no_choice(data: Any) -> NoCompletion:
    error = data.get("error") if isinstance(data, dict) else None
    if not error:
        return NoCompletion(f"the answer is no completion: {json.dumps(data, ensure_ascii=False)[:60]}")
    if not isinstance(error, dict):
        return NoCompletion(str(error))
    code = error.get("code")
    number = str(error.get("status") or code or "")
    status = int(number) if number.isdigit() and 400 <= int(number) < 600 else None
    return NoCompletion(str(error.get("message") or error), status, f"{code} {error.get('type')}")


def _first(*values: Any) -> Any:
    return next((v for v in values if v), None)


def _text(value: Any) -> str:
    """A string; of a list of parts their texts."""
    if isinstance(value, list):
        return "".join(_text(v.get("text") if isinstance(v, dict) else v) for v in value)
    return value if isinstance(value, str) else "" if value is None else str(value)


def _usage(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, dict) or value.get("prompt_tokens") is None:
        return None
    try:
        prompt = int(value["prompt_tokens"])
        given = value.get("completion_tokens")
        reply = int(value["total_tokens"]) - prompt if given is None else int(given)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None  # counted at its most
    return (prompt, reply) if prompt >= 0 and reply >= 0 else None
