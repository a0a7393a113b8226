"""The typed schema of an evaluation: the task, and the settings of each task."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alpaca import schema
from alpaca.config import raise_all
from alpaca.evaluation.recipes import RECIPES
from alpaca.generation.filters import FilterConfig


@dataclass
class AuditedData:
    """Rows to look at."""

    path: str | None = None
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
class LedgerConfig:
    """Where the ledger of published figures finds what it cannot compute from the configs alone (task=paper)."""

    runs: list[str] = field(default_factory=list)
    """Finished run folders of train.py, or folders of evaluate.py: their rows become PASS or FAIL."""
    seeds: str | None = None
    """The 175 seed tasks of Self-Instruct, against which Alpaca's rows are compared."""
    llama_tokenizer: str | None = None
    """Folder of the LLaMA tokenizer."""
    opt_tokenizer: str | None = None


@dataclass
class EvaluateConfig:
    """One evaluation."""

    task: Literal["data_audit", "paper", "recipe_diff"]
    data: AuditedData = field(default_factory=AuditedData)
    config: str | None = None
    """recipe_diff: a run folder, a run's config.yaml, or a name in conf/experiment/."""
    recipe: str | None = None
    """recipe_diff: the published recipe to compare with; null: the nearest."""
    audit: AuditConfig = field(default_factory=AuditConfig)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)


def load(data: Any) -> EvaluateConfig:
    """A validated config from plain data. Raises UserError with every fault found."""
    faults: list[str] = []
    config: EvaluateConfig = schema.build(EvaluateConfig, data, "", faults)
    raise_all(faults or problems(config))
    return config


def problems(config: EvaluateConfig) -> list[str]:
    """What is wrong with well-typed values, each a line."""
    return [*_missing_files(config), *_audit_problems(config), *_recipe_problems(config)]


def _missing_files(config: EvaluateConfig) -> list[str]:
    faults, ledger = list[str](), config.ledger
    if config.data.path is None and config.task == "data_audit":
        faults.append("data.path is missing: give the file of rows, data.path=FILE")
    files: dict[str, Sequence[str | None]] = {
        "data.path": [config.data.path],
        "audit.against": config.audit.against,
        "ledger.seeds": [ledger.seeds],
    }
    for name, paths in files.items():
        faults += [f"{name}={p} is not there: give a file" for p in paths if p is not None and not Path(p).is_file()]
    folders: dict[str, Sequence[str | None]] = {
        "ledger.runs": ledger.runs,
        "ledger.llama_tokenizer": [ledger.llama_tokenizer],
        "ledger.opt_tokenizer": [ledger.opt_tokenizer],
    }
    for name, paths in folders.items():
        faults += [f"{name}={p} is not there: give a folder" for p in paths if p is not None and not Path(p).is_dir()]
    return faults


def _audit_problems(config: EvaluateConfig) -> list[str]:
    faults = []
    if not 0 <= config.audit.threshold <= 1:
        faults.append(f"audit.threshold={config.audit.threshold:g} is not allowed: it takes a number from 0 to 1")
    if config.audit.ngram < 2:
        faults.append(f"audit.ngram={config.audit.ngram} is not allowed: it takes a whole number of 2 or more")
    return faults


def _recipe_problems(config: EvaluateConfig) -> list[str]:
    faults = []
    names = list(RECIPES)
    if config.recipe is not None and config.recipe not in names:
        near = schema.nearest(config.recipe, names)
        faults.append(f"recipe={config.recipe} is not there{near} (allowed: {', '.join(names)})")
    if config.task == "recipe_diff" and config.config is None:
        faults.append("config is missing: give a run folder, its config.yaml or a name in conf/experiment/, config=DIR")
    return faults
