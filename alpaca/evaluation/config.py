"""The typed schema of an evaluation: the task, and the settings of each task."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alpaca import schema
from alpaca.config import raise_all
from alpaca.evaluation.recipes import RECIPES
from alpaca.generation.config import BudgetConfig, TeacherConfig, teacher_problems
from alpaca.generation.filters import FilterConfig
from alpaca.infer_config import PROMPTS, UiConfig


@dataclass
class AuditedData:
    """Rows to look at."""

    path: str | None = None
    """A JSON list, JSONL, CSV or Parquet file with instruction, input, output."""


@dataclass
class AuditConfig:
    """How the rows of data_audit are looked at."""

    language: str = "en"
    threshold: float = 0.7
    """Pairs of instructions with a higher ROUGE-L F1 are counted."""
    against: list[str] = field(default_factory=list)
    """Evaluation sets: rows that share a run of `ngram` tokens or resemble one of their instructions are counted."""
    ngram: int = 13
    pairs_per_row: int = 10
    """Similar pairs named for an instruction with those before it, the most similar first; all are counted."""
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
class InstructionsConfig:
    """How answers are compared with references (task=instructions)."""

    language: str = "auto"
    """en: rouge_score's own tokens; another code: characters of unspaced scripts and words; auto: by the references."""
    stemmer: bool = False
    """Porter's stemmer before comparing (en only)."""


@dataclass
class MmluConfig:
    """MMLU by EleutherAI's harness (task=mmlu)."""

    path: str | None = None
    """Folder with dev/, test/ (and val/) of MMLU's own archive; null: from the hub."""
    split: Literal["test", "validation"] = "test"
    """The QLoRA paper reports test."""
    num_fewshot: int = 5
    batch_size: int = 8


@dataclass
class JudgeConfig:
    """How two models are compared (task=judge)."""

    prompt_file: str | None = None
    """Text with {question} (or {instruction} and {input}), {first} and {second}, perhaps {reference}; null: the project's own."""
    language: str = "auto"
    """en or zh: the language of the project's own prompt; auto: that of the questions."""
    reask: int = 0
    """How often a reply in which no verdict can be read is asked for again."""


@dataclass
class EvaluateConfig:
    """One evaluation."""

    task: Literal["data_audit", "paper", "recipe_diff", "instructions", "perplexity", "mmlu", "judge"]
    run: str | None = None
    """Run folder of a finished training: the model that is judged."""
    model: str | None = None
    """Local folder or hub id of weights, instead of `run`."""
    adapter: str | None = None
    prompt: str | None = None
    """Name in conf/prompt/; null: the one saved with the weights."""
    predictions: str | None = None
    """A file of ready answers instead of a model: JSON list, JSONL, CSV or Parquet, a row each, in order; the text
    alone, or under answer, prediction, response, completion or generated_text (output, where data.path= is another file)."""
    versus: str | None = None
    """judge: what the model is compared with: a run folder, a folder of weights or a file of ready answers."""
    human: bool = False
    """judge: people vote on a page, without knowing whose answer is whose, instead of a model."""
    dry_run: bool = False
    """judge: what it would ask and cost, without one request."""
    limit: int | None = None
    """Judge the first N rows."""
    max_new_tokens: int = 256
    seed: int = 42
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = False
    instructions: InstructionsConfig = field(default_factory=InstructionsConfig)
    mmlu: MmluConfig = field(default_factory=MmluConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    teacher: TeacherConfig = field(default_factory=lambda: TeacherConfig("openai", "gpt-4o-mini", price_waived=True))
    """judge: the model that judges, from conf/teacher/."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """judge: hard caps over all that this folder's verdicts have cost."""
    ui: UiConfig = field(default_factory=UiConfig)
    """judge with human=true: where the page is served."""
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
    return [
        *_missing_files(config), *_audit_problems(config), *_recipe_problems(config), *_subject_problems(config),
        *_judge_problems(config),
    ]  # fmt: skip


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
    if config.audit.pairs_per_row < 0:
        faults.append(f"audit.pairs_per_row={config.audit.pairs_per_row} is not allowed: it takes 0 or more")
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


def _judge_problems(config: EvaluateConfig) -> list[str]:
    """What a comparison lacks; and settings that only a comparison heeds."""
    faults, ui = [], config.ui
    if config.task != "judge":
        named = {"versus": config.versus is not None, "human": config.human, "dry_run": config.dry_run}
        return [f"{name} goes with task=judge" for name, given in named.items() if given]
    if config.versus is None:
        faults.append("versus is missing: give what to compare with, versus=RUN_FOLDER, a folder of weights or a file of answers")  # fmt: skip
    elif not Path(config.versus).exists():
        faults.append(f"versus={config.versus} is not there: give a run folder, a folder of weights or a file of answers")  # fmt: skip
    if config.judge.language not in ("auto", "en", "zh"):
        faults.append(f"judge.language={config.judge.language} is not allowed: it takes auto|en|zh (judge.prompt_file=FILE for another)")  # fmt: skip
    if config.judge.prompt_file is not None and not Path(config.judge.prompt_file).is_file():
        faults.append(f"judge.prompt_file={config.judge.prompt_file} is not there: give a file")
    if config.judge.reask < 0:
        faults.append(f"judge.reask={config.judge.reask} is not allowed: it takes 0 or more")
    if not config.human:
        if config.teacher.structured_output != "none" or config.teacher.reply_format != "alpaca":
            faults.append("teacher.reply_format and teacher.structured_output are for generate_data.py: judge.prompt_file says how a judge answers")  # fmt: skip
        return faults + teacher_problems(config.teacher, config.budget, config.dry_run)
    if config.dry_run:
        faults.append("dry_run is for a judge that costs something: leave it out with human=true")
    if (ui.user is None) != (ui.password is None):
        faults.append("ui.user and ui.password go together")
    return faults + [
        f"{name}={value} is not allowed: it takes a whole number from {low} to {high}"
        for name, value, low, high in (
            ("ui.port", ui.port, 0, 65535),
            ("ui.queue", ui.queue, 1, 10**6),
            ("ui.at_once", ui.at_once, 1, 4096),
        )  # fmt: skip
        if not low <= value <= high
    ]


def _subject_problems(config: EvaluateConfig) -> list[str]:
    """What is judged: one of a run, weights or a file of predictions."""
    faults = []
    given = [n for n in ("run", "model", "predictions") if getattr(config, n) is not None]
    if config.task in ("instructions", "perplexity", "mmlu", "judge"):
        ready = config.task in ("instructions", "judge")
        allowed = "run=DIR, model=DIR_OR_HUB_ID" + (" or predictions=FILE" if ready else "")
        if len(given) != 1 or not ready and given == ["predictions"]:
            words = "compares one thing with versus=" if config.task == "judge" else "judges one thing"
            faults.append(f"task={config.task} {words}: give {allowed}")
        if config.model is not None and config.data.path is None and config.task != "mmlu":
            faults.append("data.path is missing: only a run has rows of its own, data.path=FILE")
    if config.adapter is not None and config.model is None:
        faults.append("adapter goes with model=BASE; a run folder knows its adapter")
    if config.run is not None and not Path(config.run).is_dir():
        faults.append(f"run={config.run} is not there: give the run folder that train.py printed")
    if config.predictions is not None and not Path(config.predictions).is_file():
        faults.append(f"predictions={config.predictions} is not there: give a file")
    names = sorted(p.stem for p in PROMPTS.glob("*.yaml"))
    if config.prompt is not None and config.prompt not in names:
        faults.append(
            f"prompt={config.prompt} is not there{schema.nearest(config.prompt, names)} (allowed: {', '.join(names)})"
        )
    for name, value in {
        "limit": config.limit,
        "max_new_tokens": config.max_new_tokens,
        "mmlu.batch_size": config.mmlu.batch_size,
    }.items():
        if value is not None and value < 1:
            faults.append(f"{name}={value} is not allowed: it takes a whole number of 1 or more")
    return faults
