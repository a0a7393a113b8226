"""The typed schema of a training run: every group, what its fields mean, and what they may not be together.

Values come from conf/; only settings that most YAML files need not mention have a default here.
Knows no torch and no Hugging Face library.
"""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from alpaca import schema
from alpaca.errors import UserError


@dataclass
class ModelConfig:
    """Which base model. `path` and `architecture` may both be null in no file: one of them makes the model."""

    name: str
    path: str | None = None
    """Local folder or hub id; null: made on the spot from `architecture` with random weights."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer when it is not the model's own; null: as `path`."""
    vocab_size: int | None = None
    """Size of the byte-level BPE tokenizer that is trained on the data when there is no tokenizer to load."""
    architecture: dict[str, Any] | None = None
    """Fields of the Hugging Face config (`model_type` first): makes a tiny model, or lets a dry run do without a hub."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] = "auto"
    trust_remote_code: bool = False
    """Run Python that comes with the weights. Off unless you have read that code."""


@dataclass
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685): W + (alpha / r) B A on each target."""

    r: int
    alpha: float
    dropout: float
    targets: list[str] | str
    """Names of linear layers, or `all-linear` (every one but the output layer)."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) (arXiv 2312.03732)."""
    dora: bool = False
    """Weight-decomposed LoRA (arXiv 2402.09353)."""


@dataclass
class QuantizeConfig:
    """How the frozen base is stored (bitsandbytes)."""

    bits: Literal[4, 8]
    type: Literal["nf4", "fp4"] = "nf4"
    double: bool = True
    """Quantise the quantisation constants too (arXiv 2305.14314); 4 bits only."""
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"


@dataclass
class MethodConfig:
    """What is trained."""

    name: str
    train: Literal["all", "lora"]
    lora: LoraConfig | None = None
    quantize: QuantizeConfig | None = None


@dataclass
class StrategyConfig:
    """How processes share the work."""

    name: Literal["single", "ddp", "fsdp", "deepspeed", "device_map"]
    stage: Literal[1, 2, 3] = 3
    """deepspeed: 1 cuts the optimiser state, 2 also the gradients, 3 also the parameters (ZeRO, arXiv 1910.02054)."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What waits in host memory: the optimiser state (deepspeed), or all of it (fsdp, and deepspeed at stage 3)."""
    mixed_precision: bool = True
    """fsdp: gather parameters in the compute format (bf16, fp16) and sum gradients in fp32; false: all in the weights' own."""
    reshard_after_forward: bool = True
    """fsdp: give a block's gathered parameters up after its forward pass (less memory) or keep them (less traffic)."""
    state_dict: Literal["sharded", "full"] = "sharded"
    """fsdp: what a checkpoint holds: each process's own part, or all of it gathered by the first process."""


@dataclass
class LaunchConfig:
    """Where the run happens."""

    processes: int | Literal["auto"] = "auto"
    """Workers on each node; auto: one a GPU, else 1."""
    nodes: int = 1
    rendezvous: str | None = None
    """HOST:PORT of the first node, where the nodes meet; null: one node, on a free port."""
    node_rank: int | None = None
    """Number of this node, 0 for the first, which prepares the data; null: what SLURM says, else 0."""


@dataclass
class ColumnsConfig:
    """Names of the columns that hold the three parts of a row; `input: null` when there is none."""

    instruction: str = "instruction"
    input: str | None = "input"
    output: str = "output"


@dataclass
class DataConfig:
    """Which rows."""

    name: str
    path: str | None = None
    """A file (JSON list, JSONL, CSV, Parquet), a folder of them, or a hub data set id."""
    hub: str | None = None
    """Hub data set id that is used while `path` is null."""
    split: str = "train"
    sha256: str | None = None
    """Known content of the file; another is used only with `verify: false`."""
    rows: int | None = None
    """Known number of rows, checked likewise."""
    verify: bool = True
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    limit: int | None = None
    """Keep the first N rows (after shuffling)."""
    shuffle_seed: int | None = None
    """Shuffle the rows before `limit`; null: the order of the file."""
    validation: int | float | None = None
    """Rows held out: a number (2000), a fraction (0.05) or null."""
    on_bad_row: Literal["error", "skip"] = "error"
    empty_output: Literal["keep", "drop"] = "keep"
    packing: bool = False
    """Lay examples together in rows of max_length tokens, each attending to itself alone; batch sizes then count these."""
    cache: str | None = None
    """Folder of the tokenised data; null: $ALPACA_CACHE, else ~/.cache/alpaca."""


@dataclass
class PromptConfig:
    """The text around a row. The response follows at once, then EOS."""

    name: str
    kind: Literal["text", "chat"] = "text"
    """text: the two templates below; chat: the tokenizer's own chat template."""
    with_input: str = ""
    without_input: str = ""
    system: str | None = None
    """System message (chat only)."""
    stop: list[str] = field(default_factory=list)
    """Texts at which an answer ends even when the model goes on."""


@dataclass
class TrackerConfig:
    """Where metrics go besides the run folder."""

    name: Literal["none", "wandb", "tensorboard"]
    project: str = "alpaca"
    entity: str | None = None
    group: str | None = None
    run_name: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class BatchConfig:
    """Sequences an optimiser step sees, and sequences a device holds at once; accumulation follows from both."""

    global_size: int
    per_device: int


@dataclass
class PlanConfig:
    """What a dry run assumes when it says memory, hours and money."""

    gpu: str | None = None
    """Name of a GPU (alpaca/gpus.py); null: memory alone is told, for the device that is there."""
    gpus: int | None = None
    """GPUs that strategy=device_map lays the layers over; elsewhere launch.processes says it."""
    compare: bool = False
    """A table over methods and GPUs instead of the one config."""
    utilisation: float = 0.35
    """Share of the GPU's peak throughput that training is assumed to reach."""
    node_efficiency: float = 0.9
    """What of that is assumed to be left when several nodes work together."""
    usd_per_hour: float | None = None
    """Price of one GPU; null: the table's assumption."""
    reserve_gb: float = 2.0
    """Memory (GiB) that the driver, the libraries and fragmentation are assumed to take on each GPU."""
    tokens: float | None = None
    """Training from scratch on so many tokens, instead of the epochs of the data."""
    tokens_per_row: float | None = None
    """Tokens of a row, padding included; null: counted where the data is there, else `max_length`."""


@dataclass
class TrainingConfig:
    """How the steps are computed; what they compute is the same."""

    fast: bool = True
    """No padding and loss only at labels where that is checked to be equal; false: plain padded batches, all logits."""
    liger: Literal["auto", True, False] = "auto"
    """Liger's kernels for norms, rotary positions and MLPs; auto: on CUDA where liger-kernel is installed."""
    balance: bool = False
    """Share the rows of each step out over micro-batches and processes by their tokens; the step keeps its rows."""


@dataclass
class TrainConfig:
    """A training run."""

    model: ModelConfig
    method: MethodConfig
    strategy: StrategyConfig
    data: DataConfig
    prompt: PromptConfig
    tracker: TrackerConfig
    batch: BatchConfig
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    """Fields of Hugging Face TrainingArguments."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 42
    loss_on: Literal["response", "all"] = "response"
    """Which tokens carry loss: the response and EOS, or the whole sequence."""
    loss_average: Literal["token", "microbatch"] = "token"
    """Mean over the tokens of the accumulated batch, or mean of the micro-batches' means (transformers before 4.46)."""
    max_length: int = 512
    """Tokens of prompt, response and EOS together."""
    source_max_length: int | None = None
    """With target_max_length: prompt and response are cut and tokenised apart, as QLoRA does, instead of max_length."""
    target_max_length: int | None = None
    over_length: Literal["truncate", "drop", "error"] = "truncate"
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: bf16 where the GPU has it, else fp16 with loss scaling on CUDA, else fp32."""
    resume: str = "auto"
    """auto: from the newest whole checkpoint of this run folder; none: start again; or a checkpoint folder."""
    dry_run: bool = False
    """Everything but the steps."""
    rehearse_save: bool = True
    """Write the model once before the first step, so that no run ends in a failing save."""
    check_saved: bool = True
    """After training, load what was saved in a fresh process and compare the logits."""

    @property
    def longest(self) -> int:
        """Tokens that a row may have."""
        if self.source_max_length is not None and self.target_max_length is not None:
            return self.source_max_length + self.target_max_length
        return self.max_length


def load(data: Any) -> TrainConfig:
    """A validated config from plain data. Raises UserError with every fault found."""
    faults: list[str] = _settings_of_other_methods(data)
    config: TrainConfig = schema.build(TrainConfig, data, "", faults)
    if not faults:
        from alpaca.config_problems import problems

        faults = problems(config)
    raise_all(faults)
    for name in ("path", "tokenizer"):
        if (value := getattr(config.model, name)) is not None and value.startswith("~"):
            setattr(config.model, name, os.path.expanduser(value))
    return config


def _settings_of_other_methods(data: Any) -> list[str]:
    """LoRA or quantisation settings on a method that trains every weight; taken out of `data`, so as to be told once."""
    method = data.get("method") if isinstance(data, dict) else None
    if not isinstance(method, dict) or method.get("train") != "all":
        return []
    return [
        f"method.{name} is set, but method={method.get('name')} trains every weight; use method=lora, lora8bit or qlora"
        for name in ("lora", "quantize")
        if method.pop(name, None) is not None
    ]


def raise_all(faults: list[str]) -> None:
    """Raise one UserError that lists every fault, if there is any."""
    if faults:
        head = "" if len(faults) == 1 else f"{len(faults)} faults in the configuration:\n  "
        raise UserError(head + "\n  ".join(dict.fromkeys(faults)))
