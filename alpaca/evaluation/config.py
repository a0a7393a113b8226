"""The typed schema of an evaluation: the task, and the settings of each task."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alpaca import schema
from alpaca.config import raise_all
from alpaca.generation.filters import FilterConfig


@dataclass
class AuditedData:
    """Rows to look at."""

    path: str
    """A JSON list or JSONL file with instruction, input, output."""


@dataclass
class AuditConfig:
    """How the rows of data_audit are looked at."""

    language: str = "en"
    threshold: float = 0.7
    """Pairs of instructions with a higher ROUGE-L F1 are counted."""
    against: list[str] = field(default_factory=list)
    """Evaluation sets: rows that share a run of `ngram` tokens or resemble one of their instructions are counted."""
    ngram: int = 13
    filters: FilterConfig = field(default_factory=FilterConfig)


@dataclass
class EvaluateConfig:
    """One evaluation."""

    task: Literal["data_audit"]
    data: AuditedData
    audit: AuditConfig = field(default_factory=AuditConfig)


def load(data: Any) -> EvaluateConfig:
    """A validated config from plain data. Raises UserError with every fault found."""
    faults: list[str] = []
    config: EvaluateConfig = schema.build(EvaluateConfig, data, "", faults)
    raise_all(faults or problems(config))
    return config


def problems(config: EvaluateConfig) -> list[str]:
    """What is wrong with well-typed values, each a line."""
    faults = []
    if config.data.path == "???":
        faults.append("data.path is missing: give the file of rows, data.path=FILE")
    files = {"data.path": [config.data.path], "audit.against": config.audit.against}
    for name, paths in files.items():
        faults += [f"{name}={p} is not there: give a file" for p in paths if p != "???" and not Path(p).is_file()]
    if not 0 <= config.audit.threshold <= 1:
        faults.append(f"audit.threshold={config.audit.threshold:g} is not allowed: it takes a number from 0 to 1")
    if config.audit.ngram < 2:
        faults.append(f"audit.ngram={config.audit.ngram} is not allowed: it takes a whole number of 2 or more")
    return faults
