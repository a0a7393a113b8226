"""The typed schema of infer.py. Knows no torch and no Hugging Face library."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alpaca import schema
from alpaca.config import raise_all

PROMPTS = Path(__file__).resolve().parent.parent / "conf" / "prompt"


@dataclass
class BatchFiles:
    """Answers for a file of rows."""

    input: str | None = None
    """JSONL or a JSON list of rows with `instruction` and perhaps `input`."""
    output: str | None = None
    """JSONL, a line a row in the same order: the row, `answer` and `stopped` (eos, stop or length)."""
    size: int = 16


@dataclass
class InferConfig:
    """One question, a conversation in a terminal, or a file of rows; from a run folder or from weights."""

    run: str | None = None
    """Run folder of a finished training."""
    model: str | None = None
    """Local folder or hub id of weights, instead of `run`."""
    adapter: str | None = None
    """LoRA adapter on `model`."""
    revision: str | None = None
    prompt: str | None = None
    """Name in conf/prompt/; null: the one saved with the weights."""
    trust_remote_code: bool = False
    instruction: str | None = None
    input: str = ""
    interactive: bool = False
    batch: BatchFiles = field(default_factory=BatchFiles)
    temperature: float = 0.0
    """0 is greedy; above it tokens are drawn."""
    top_p: float = 1.0
    top_k: int = 0
    num_beams: int = 1
    max_new_tokens: int = 256
    repetition_penalty: float = 1.0
    seed: int = 42
    stop: list[str] = field(default_factory=list)
    """Texts that end an answer, besides the prompt's own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


def load(data: Any) -> InferConfig:
    """A validated config. Raises UserError with every fault found."""
    faults: list[str] = []
    config: InferConfig = schema.build(InferConfig, data, "", faults)
    if not faults:
        faults = problems(config)
    raise_all(faults)
    return config


def problems(config: InferConfig) -> list[str]:
    """What is wrong with well-typed values, each a line."""
    faults = []
    if (config.run is None) == (config.model is None):
        faults.append("give either run=RUN_FOLDER or model=DIR_OR_HUB_ID")
    if config.adapter is not None and config.model is None:
        faults.append("adapter goes with model=BASE; a run folder knows its adapter")
    wanted = [config.instruction is not None, config.interactive, config.batch.input is not None]
    if sum(wanted) != 1:
        faults.append("give one of instruction='…', interactive=true, or batch.input=FILE with batch.output=FILE")
    if config.instruction is not None and not config.instruction.strip():
        faults.append("instruction is empty: give a text, instruction='Name three primary colours.'")
    if (config.batch.input is None) != (config.batch.output is None):
        faults.append("batch.input and batch.output go together")
    if config.input and config.instruction is None:
        faults.append("input goes with instruction='…'")
    names = sorted(p.stem for p in PROMPTS.glob("*.yaml"))
    if config.prompt is not None and config.prompt not in names:
        faults.append(
            f"prompt={config.prompt} is not there{schema.nearest(config.prompt, names)} (allowed: {', '.join(names)})"
        )
    return faults + _sampling_problems(config)


def _sampling_problems(config: InferConfig) -> list[str]:
    ranges = {
        "temperature": (config.temperature, 0, 10),
        "top_p": (config.top_p, 1e-9, 1),
        "top_k": (config.top_k, 0, 10**9),
        "num_beams": (config.num_beams, 1, 64),
        "max_new_tokens": (config.max_new_tokens, 1, 10**6),
        "repetition_penalty": (config.repetition_penalty, 1e-9, 100),
        "seed": (config.seed, 0, 2**32 - 1),
        "batch.size": (config.batch.size, 1, 4096),
    }
    return [
        f"{name}={value:g} is not allowed: it takes a number from {low:g} to {high:g}"
        for name, (value, low, high) in ranges.items()
        if not low <= value <= high
    ]
