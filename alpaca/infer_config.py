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
    """JSONL, a JSON list, CSV or Parquet: rows with `instruction` and perhaps `input`."""
    output: str | None = None
    """JSONL, a line a row in the same order: the row, `answer` and `stopped` (eos, stop or length)."""
    size: int = 32
    """Rows that are computed together; halved when memory runs out."""


@dataclass
class UiConfig:
    """A page in the browser."""

    name: Literal["none", "gradio"] = "none"
    host: str = "127.0.0.1"
    """0.0.0.0 offers the page to the network: then give user and password too."""
    port: int = 7860
    share: bool = False
    """A public address by Gradio's own relay; needs the internet."""
    user: str | None = None
    password: str | None = None
    queue: int = 16
    """Most questions that wait; further ones are told to try again."""
    at_once: int = 4
    """Questions that are answered together."""


@dataclass
class ServeConfig:
    """An API over HTTP."""

    name: Literal["none", "openai"] = "none"
    host: str = "127.0.0.1"
    port: int = 8000
    model: str | None = None
    """The name that clients give; null: that of the run folder or the weights."""
    api_key: str | None = None
    """What clients must send; null: nothing."""
    queue: int = 64
    """Most requests that wait; further ones get status 429."""
    at_once: int = 16
    """Requests that are answered together."""


@dataclass
class InferConfig:
    """One question, a conversation in a terminal, or a file of rows; from a run folder or from weights."""

    run: str | None = None
    """Run folder of a finished training; null with ui or serve: the newest finished one in outputs/."""
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
    ui: UiConfig = field(default_factory=UiConfig)
    compare: list[str] = field(default_factory=list)
    """Run folders or weights whose answers stand side by side on the page, instead of `run`."""
    serve: ServeConfig = field(default_factory=ServeConfig)
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
    quantize: Literal["auto", "none", "int8", "nf4"] = "auto"
    """auto: as in training; int8 and nf4 (4 bits) load the base smaller, with bitsandbytes."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """vllm: for instruction= and batch.input=, where it is installed."""


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
    page, api = config.ui.name != "none", config.serve.name != "none"
    given = [config.run is not None, config.model is not None, bool(config.compare)]
    if sum(given) > 1 or (sum(given) == 0 and not (page or api)):
        faults.append("give either run=RUN_FOLDER or model=DIR_OR_HUB_ID")
    if config.compare and not page:
        faults.append("compare=[DIR1,DIR2] goes with ui=gradio")
    if config.compare and not 2 <= len(config.compare) <= 4:
        faults.append(f"compare takes 2 to 4 run folders or weights, and has {len(config.compare)}")
    if config.adapter is not None and config.model is None:
        faults.append("adapter goes with model=BASE; a run folder knows its adapter")
    wanted = [config.instruction is not None, config.interactive, config.batch.input is not None, page, api]
    if sum(wanted) != 1:
        faults.append(
            "give one of instruction='…', interactive=true, batch.input=FILE with batch.output=FILE, ui=gradio or "
            "serve=openai"
        )
    if (config.ui.user is None) != (config.ui.password is None):
        faults.append("ui.user and ui.password go together")
    if config.engine == "vllm" and (config.interactive or page or api or config.num_beams > 1):
        faults.append(
            "engine=vllm goes with instruction='…' or batch.input=FILE, without beams (vllm serve is its server)"
        )
    if config.engine == "vllm" and config.quantize in ("int8", "nf4"):
        faults.append(f"engine=vllm takes no quantize={config.quantize}: use engine=transformers")
    if config.instruction is not None and not config.instruction.strip():
        faults.append("instruction is empty: give a text, instruction='Name three primary colours.'")
    if (config.batch.input is None) != (config.batch.output is None):
        faults.append("batch.input and batch.output go together")
    if config.batch.output is not None and not Path(config.batch.output).expanduser().resolve().parent.is_dir():
        faults.append(f"batch.output={config.batch.output}: its folder is not there; make it first")
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
        "ui.port": (config.ui.port, 0, 65535),
        "ui.queue": (config.ui.queue, 1, 10**6),
        "ui.at_once": (config.ui.at_once, 1, 4096),
        "serve.port": (config.serve.port, 0, 65535),
        "serve.queue": (config.serve.queue, 1, 10**6),
        "serve.at_once": (config.serve.at_once, 1, 4096),
    }
    return [
        f"{name}={value:g} is not allowed: it takes a number from {low:g} to {high:g}"
        for name, (value, low, high) in ranges.items()
        if not low <= value <= high
    ]
