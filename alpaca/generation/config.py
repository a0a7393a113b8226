"""The typed schema of a data-generation run: what its fields mean and what they may not be together.

Values come from conf/generate_data.yaml and conf/teacher/. Knows no SDK.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alpaca import schema
from alpaca.config import raise_all
from alpaca.generation import languages
from alpaca.generation.filters import FilterConfig

_NOT_SAMPLING = {
    "n": "one reply a request is read",
    "best_of": "one reply a request is read",
    "stream": "replies are taken whole",
    "model": "give teacher.model",
    "messages": "give prompt_file",
    "prompt": "give prompt_file",
    "max_tokens": "give teacher.max_tokens",
    "max_completion_tokens": "give teacher.max_tokens and teacher.max_tokens_field",
    "response_format": "give teacher.structured_output",
}


@dataclass
class TeacherConfig:
    """Which model writes, where it is served, and what it costs."""

    name: str
    model: str
    base_url: str | None = None
    """Any OpenAI-compatible endpoint, with its /v1; null: OpenAI's own."""
    api: Literal["chat", "completions"] = "chat"
    api_key_env: str | None = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; null: the server wants none."""
    reply_format: Literal["alpaca", "json"] = "alpaca"
    structured_output: Literal["none", "json_object", "json_schema"] = "none"
    """With reply_format=json: how the server is told to answer in JSON."""
    max_tokens: int = 3072
    """Most tokens of a reply."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    sampling: dict[str, Any] = field(default_factory=dict)
    """Further fields of the request: temperature, top_p, stop, logit_bias, …"""
    usd_per_million_input: float | None = None
    """Price of a million prompt tokens; null: from known_prices."""
    usd_per_million_output: float | None = None
    known_prices: dict[str, list[float]] = field(default_factory=dict)
    """Model -> [input, output], US dollars for a million tokens."""
    price_waived: bool = False
    """Run although the price is not known; cost is then not counted."""
    concurrency: int = 16
    """Requests in flight."""
    timeout: float = 180.0
    """Seconds after which a request counts as failed."""
    retries: int = 10
    """Further attempts after a fault that can pass: 429, 5xx, connection, time-out, an answer that is no completion."""
    backoff: float = 0.5
    """Seconds before the first retry (with jitter); doubled each time up to backoff_max."""
    backoff_max: float = 60.0
    retry_after_max: float = 600.0
    """A server that asks for a longer wait than this stops the run."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


@dataclass
class BudgetConfig:
    """Hard caps over the whole journal of an output, earlier runs included. null: none."""

    max_usd: float | None = None
    max_requests: int | None = None
    """HTTP requests, retries included."""
    max_tokens: int | None = None


@dataclass
class SourceConfig:
    """What a request is made of: examples, or a passage of the user's own text."""

    name: Literal["seeds", "corpus"]
    path: str
    """seeds: a file of rows; corpus: a file or folder of txt, md, html, jsonl (pdf, docx with their libraries)."""
    items: int = 20
    """Instructions asked for in a request."""
    examples: int = 3
    """Seed tasks shown in a request."""
    pool_fraction: float = 0.0
    """Share of the examples drawn from rows already kept (Self-Instruct: examples 8, pool_fraction 0.25)."""
    passage_tokens: int = 400
    """corpus: longest passage."""
    min_passage_tokens: int = 40
    rounds: int = 3
    """corpus: how often a passage may be asked about."""
    min_support: float = 0.5
    """corpus: least share of an output's content words that its passage holds."""


@dataclass
class DedupeConfig:
    """ROUGE-L against seeds and kept rows."""

    threshold: float = 0.7
    """An instruction with a higher F1 is dropped; an equal one stays."""
    against: list[str] = field(default_factory=list)
    """Further files of rows that new ones must not resemble."""
    nearest: int = 10
    """Most similar instructions kept with each row; 0: none, and no mean."""
    mean: bool = True
    """Keep the mean similarity too."""


@dataclass
class GenerateConfig:
    """A data-generation run."""

    teacher: TeacherConfig
    source: SourceConfig
    num_instructions: int = 1000
    output: str = "???"
    """.jsonl: a row a line; .json: one list. The journal, report and card lie beside it."""
    language: str = "en"
    """Language code of the rows."""
    topic: str | None = None
    prompt_file: str | None = None
    """Text of the request; null: the project's own for the language and the source."""
    seed: int = 42
    reask: int = 4
    """How often a reply in which nothing could be read, or that was cut below max_tokens, is asked for again; one that is
    cut where the server cuts every one is not."""
    retry_failed: bool = False
    """Ask again what the teacher failed on in earlier runs; without it only another teacher is asked that."""
    give_up_after: int = 25
    """Stop when so many replies in a row gave no new row."""
    dry_run: bool = False
    report: bool = True
    """Write report.html, its pictures and the data set card."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    dedupe: DedupeConfig = field(default_factory=DedupeConfig)


def load(data: Any) -> GenerateConfig:
    """A validated config from plain data. Raises UserError with every fault found."""
    faults: list[str] = []
    config: GenerateConfig = schema.build(GenerateConfig, data, "", faults)
    raise_all(faults or problems(config))
    return config


def problems(config: GenerateConfig) -> list[str]:
    """What is wrong with well-typed values, each a line."""
    source = config.source
    whole = {
        "num_instructions": config.num_instructions, "source.items": source.items, "source.rounds": source.rounds,
        "source.passage_tokens": source.passage_tokens, "give_up_after": config.give_up_after,
    }  # fmt: skip
    faults = teacher_problems(config.teacher, config.budget, config.dry_run)
    faults += [f"{k}={v} is not allowed: it takes a whole number of 1 or more" for k, v in whole.items() if v < 1]
    not_negative = {
        "source.examples": source.examples, "reask": config.reask, "dedupe.nearest": config.dedupe.nearest,
        "seed": config.seed,
    }  # fmt: skip
    faults += [f"{k}={v} is not allowed: it takes 0 or more" for k, v in not_negative.items() if v < 0]
    shares = {"dedupe.threshold": config.dedupe.threshold, "source.pool_fraction": source.pool_fraction, "source.min_support": source.min_support}  # fmt: skip
    faults += [f"{k}={v:g} is not allowed: it takes a number from 0 to 1" for k, v in shares.items() if not 0 <= v <= 1]
    return faults + _names(config)


def teacher_problems(teacher: TeacherConfig, budget: BudgetConfig, dry_run: bool) -> list[str]:
    """What is wrong with a teacher and what it may cost, for every command that asks one; a dry run needs no key."""
    whole = {
        "teacher.concurrency": teacher.concurrency, "teacher.max_tokens": teacher.max_tokens,
        "budget.max_requests": budget.max_requests, "budget.max_tokens": budget.max_tokens,
    }  # fmt: skip
    faults = [f"{k}={v} is not allowed: it takes a whole number of 1 or more" for k, v in whole.items() if v is not None and v < 1]  # fmt: skip
    not_negative = {"teacher.retries": teacher.retries, "teacher.backoff": teacher.backoff}
    faults += [f"{k}={v} is not allowed: it takes 0 or more" for k, v in not_negative.items() if v < 0]
    positive = {
        "teacher.timeout": teacher.timeout, "budget.max_usd": budget.max_usd,
        "teacher.requests_per_minute": teacher.requests_per_minute, "teacher.tokens_per_minute": teacher.tokens_per_minute,
    }  # fmt: skip
    faults += [f"{k}={v:g} is not allowed: it takes a number above 0" for k, v in positive.items() if v is not None and v <= 0]  # fmt: skip
    if teacher.base_url is not None and not teacher.base_url.startswith(("http://", "https://")):
        faults.append(
            f"teacher.base_url={teacher.base_url} is not allowed: it takes an address such as http://127.0.0.1:8000/v1"
        )
    if not teacher.model.strip():
        faults.append(
            "teacher.model is missing: give the name under which the server knows the model, teacher.model=NAME"
        )
    if teacher.structured_output != "none" and teacher.reply_format != "json":
        faults.append("teacher.structured_output goes with teacher.reply_format=json")
    if teacher.structured_output != "none" and teacher.api == "completions":
        faults.append("teacher.structured_output goes with teacher.api=chat")
    faults += [
        f"teacher.sampling.{k} is not allowed: {why}" for k, why in _NOT_SAMPLING.items() if k in teacher.sampling
    ]
    key = teacher.api_key_env
    value = os.environ.get(key, "").strip() if key else ""
    if key and not dry_run and not value:
        faults.append(
            f"the environment variable {key} is not set: export {key}=… (keys are read from nowhere else), or teacher=local"
        )
    if not (value.isascii() and value.isprintable()):
        faults.append(f"the environment variable {key} holds signs that no key has: copy the key again")
    return faults + _price(teacher, budget)


def _names(config: GenerateConfig) -> list[str]:
    faults = []
    if Path(config.output).is_dir():
        faults.append(f"output={config.output} is a folder: give a file that ends in .jsonl or .json")
    if Path(config.output).suffix not in (".json", ".jsonl"):
        faults.append(f"output={config.output} is not allowed: it takes a file that ends in .jsonl or .json")
    if config.source.path == "???":
        faults.append("source.path is missing: source=corpus source.path=FILE_OR_FOLDER")
    if wrong := languages.problem(config.language):
        faults.append(f"language={config.language} is not allowed: {wrong}")
    paths: dict[str, list[Any]] = {
        "source.path": [config.source.path],
        "dedupe.against": config.dedupe.against,
        "prompt_file": [config.prompt_file],
    }
    for name, values in paths.items():
        faults += [
            f"{name}={v} is not there: give a file that exists"
            for v in values
            if v and v != "???" and not Path(v).exists()
        ]
    return faults


def _price(teacher: TeacherConfig, budget: BudgetConfig) -> list[str]:
    if prices(teacher) is not None:
        return []
    if budget.max_usd is not None:
        return [
            f"budget.max_usd={budget.max_usd:g} cannot be kept: the price of {teacher.model} is not known; give teacher.usd_per_million_input=… teacher.usd_per_million_output=…"
        ]
    if not teacher.price_waived:
        return [
            f"the price of teacher.model={teacher.model} is not known: give teacher.usd_per_million_input=… teacher.usd_per_million_output=…, or teacher.price_waived=true to run without counting cost"
        ]
    return []


def prices(teacher: TeacherConfig) -> tuple[float, float] | None:
    """US dollars for one token of prompt and of reply, or None when not known."""
    given = (teacher.usd_per_million_input, teacher.usd_per_million_output)
    if given[0] is not None and given[1] is not None:
        return given[0] / 1e6, given[1] / 1e6
    known = teacher.known_prices.get(teacher.model)
    return (known[0] / 1e6, known[1] / 1e6) if known and len(known) == 2 else None
