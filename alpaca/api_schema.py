"""What a request to the OpenAI API may say here, and how a fault in it is told. Knows no model."""

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from alpaca.decoding import Sampling

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
}
"""Fields that would change the answer and are not done here, with the values that ask for nothing."""


class ApiError(Exception):
    """An error for a client: status, text, and the parameter that it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code

    def body(self) -> dict[str, Any]:
        """As OpenAI writes it."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}


class Asked(BaseModel):
    """What both kinds of request have. `top_k`, `repetition_penalty`, `input` and `raw` go into the SDK's extra_body."""

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=10)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    input: str = ""
    """The prompt's input, beside the instruction."""


class TextRequest(Asked):
    """POST /v1/completions."""

    prompt: str | list[str]
    raw: bool = False
    """Take the text as it is."""


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    def turns(self) -> list[dict[str, str]]:
        """Role and text of each message. Raises ApiError for what holds no text."""
        result = []
        for i, message in enumerate(self.messages):
            place, role, content = f"messages[{i}]", message.get("role"), message.get("content")
            if role not in ("system", "developer", "user", "assistant"):
                raise ApiError(400, f"{place}.role={role!r} is not allowed: system, user or assistant", param=place)
            if isinstance(content, list):
                parts = [p.get("text") if isinstance(p, dict) and p.get("type") == "text" else None for p in content]
                content = "".join(p for p in parts if p is not None) if None not in parts else None
            if not isinstance(content, str):
                raise ApiError(400, f"{place}.content takes a text (or text parts)", param=place)
            result.append({"role": "system" if role == "developer" else role, "content": content})
        return result


def refuse_unknown(asked: Asked) -> None:
    """Raise ApiError for a field that would change the answer and is not done here."""
    for name, allowed in NEUTRAL.items():
        value = (asked.model_extra or {}).get(name)
        if value is not None and value not in allowed:
            raise ApiError(400, f"{name}={value!r} is not done here: leave it out", param=name, code="unsupported")


def sampling_for(asked: Asked, default: Sampling, seed: int) -> Sampling:
    """The settings of a request over those of the server; without a seed of its own it draws from `seed`."""
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    if any(not s for s in stops):
        raise ApiError(400, "stop holds an empty text", param="stop")
    most = getattr(asked, "max_completion_tokens", None) or asked.max_tokens  # the newer name goes first
    given = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "repetition_penalty": asked.repetition_penalty,
        "max_new_tokens": most,
    }
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    return replace(default, **changes, stop=(*default.stop, *stops), seed=seed if asked.seed is None else asked.seed)
