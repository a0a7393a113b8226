"""What a config will need: memory by part, floating-point operations, hours and dollars. Starts nothing.

Bytes a parameter, from the formats themselves:
- trained: fp32 weight 4, fp32 gradient 4 (DDP holds its buckets besides: 4 more), AdamW 8. (ZeRO, arXiv 1910.02054,
  section 3, counts the same 16 in another split.) Autocast keeps a 16-bit copy of every matrix that is trained: 2.
- frozen: 2 in 16 bits, 4 in fp32; 8-bit: 1 and an fp32 constant a row; 4-bit: 1/2 and an fp32 constant for 64 weights,
  or with double quantisation 8 bits for 64 and fp32 for 64 x 256 (QLoRA, arXiv 2305.14314, section 3). Embeddings,
  output layer and norms of a quantised base stay in fp32.
- sharded (FSDP, ZeRO-3): all of these divided by the processes, and two layers and what is in no layer gathered.
  ZeRO-2 divides gradients and optimiser state, ZeRO-1 the state alone. DeepSpeed keeps weights and gradients in the
  compute format, and an fp32 weight beside AdamW's 8 (the paper's K = 12), and for its step the share's fp32 gradient.
- offloaded: what waits in host memory is told apart, for each process.
- device_map: the layers over the GPUs, one at work at a time; the fullest GPU is told.
Activations: activations.py. Logits: what the loss holds for each position that has one.
Operations: `operations`. The whole: `Memory.peak`.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from alpaca import activations
from alpaca.config import TrainConfig
from alpaca.gpus import GPUS
from alpaca.packing import PackedDataset

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GIB = 2**30
ADAM = 8.0
STATE = {"sgd": 0.0, "adagrad": 4.0, "lion_32bit": 4.0, "paged_lion_32bit": 4.0, "adafactor": 0.1}
"""Optimiser state in bytes a trained parameter where it is not AdamW's 8; any 8-bit one: 2."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters by what happens to them, and what else of the model the formulae take."""

    trained: int
    copied: int
    """Trained, and a matrix that autocast copies: not the input embedding."""
    frozen: int
    quantized: int
    quantized_rows: int
    """Rows of the quantised matrices: each has a constant of its own in 8 bits."""
    largest_layer: int
    outside: int
    """Parameters in no layer: embeddings, output layer, last norm."""
    embedding: int
    adapters: int
    layers: int
    hidden: int
    vocabulary: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.trained + self.frozen + self.quantized


@dataclass(frozen=True)
class Rows:
    """What the data comes to. `longest`, `with_loss`: tokens of one sequence at most; `per_row`: mean as computed.

    `filled`: the largest micro-batch's tokens as computed, against as many rows of the longest.
    """

    count: int
    longest: int
    with_loss: int
    per_row: float
    counted: bool
    filled: float = 1.0


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: float
    copies: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    reserve: float
    accumulates: bool
    paged: bool
    """The optimiser's state may move to the host's memory when there is no room."""
    step: float = 0.0
    """What the optimiser's step needs besides."""
    host: float = 0.0
    """In host memory, for each process."""

    @property
    def peak(self) -> float:
        """The most that is held at once: the end of the forward pass, or the optimiser's step.

        Gradients of earlier micro-batches are there in the forward pass; of the only one they grow as activations go.
        """
        forward = self.activations + self.logits + (self.gradients if self.accumulates else 0.0)
        return self.weights + self.copies + self.optimizer + max(forward, self.gradients + self.step) + self.reserve

    @property
    def at_least(self) -> float:
        """The peak with every page of a paged optimiser moved out."""
        return self.peak - (self.optimizer if self.paged else 0.0)


def sizes(model: Any, config: TrainConfig) -> Sizes:
    """Parameters counted on a model without storage to which the method was applied."""
    from torch import nn

    base = model.get_base_model() if config.method.train == "lora" else model
    embedding, output = base.get_input_embeddings(), base.get_output_embeddings()
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and m is not output}
    counts = dict.fromkeys(("trained", "copied", "frozen", "quantized", "quantized_rows", "adapters", "outside"), 0)
    layers: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        n = parameter.numel()
        counts["adapters"] += n if "lora_" in name else 0
        if parameter.requires_grad:
            counts["trained"] += n
            counts["copied"] += n if parameter.ndim == 2 and parameter is not embedding.weight else 0
        elif config.method.quantize is not None and id(parameter) in linear:
            counts["quantized"] += n
            counts["quantized_rows"] += parameter.shape[0]
        else:
            counts["frozen"] += n
        number = next((part for part in name.split(".") if part.isdigit()), None)
        if number is None:
            counts["outside"] += n
        else:
            layers[number] = layers.get(number, 0) + n
    return Sizes(
        **counts,
        largest_layer=max(layers.values(), default=0),
        embedding=embedding.weight.numel(),
        layers=len(layers),
        hidden=embedding.weight.shape[1],
        vocabulary=(output or embedding).weight.shape[0],
    )


def compute_format(config: TrainConfig) -> str:
    """bf16, fp16 or fp32 as the run would choose on `plan.gpu`, or on the device that is there."""
    if config.precision != "auto":
        return config.precision
    if config.plan.gpu is not None:
        return "bf16" if GPUS[config.plan.gpu].bf16 else "fp16"
    import torch

    return "fp32" if not torch.cuda.is_available() else "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def processes(config: TrainConfig) -> int:
    """Processes of the run, over all nodes; `auto` with a GPU that is only named: one a node."""
    if config.strategy.name in ("single", "device_map"):
        return 1
    if config.plan.gpu is not None and config.launch.processes == "auto":
        return config.launch.nodes
    from alpaca import devices

    return devices.processes(config.launch)


def sharded(config: TrainConfig) -> bool:
    """Whether something is divided over the processes."""
    return config.strategy.name in ("fsdp", "deepspeed")


def divided(config: TrainConfig) -> tuple[int, int, int]:
    """By how many processes weights, gradients and optimiser state are divided."""
    world = processes(config)
    if not sharded(config):
        return 1, 1, 1
    stage = 3 if config.strategy.name == "fsdp" else config.strategy.stage
    return (world if stage == 3 else 1), (world if stage >= 2 else 1), world


def spread(config: TrainConfig) -> int:
    """GPUs over which device_map lays the layers: plan.gpus, else those that are there."""
    if config.strategy.name != "device_map":
        return 1
    if config.plan.gpus is not None or config.plan.gpu is not None:
        return config.plan.gpus or 1
    import torch

    return torch.cuda.device_count() or 1


def memory(config: TrainConfig, size: Sizes, architecture: "PretrainedConfig", rows: Rows) -> Memory:
    """Bytes on each device while `config` trains."""
    world, compute = processes(config), compute_format(config)
    by_weights, by_gradients, by_state = divided(config)
    deepspeed = config.strategy.name == "deepspeed" and world > 1
    narrow = 4 if compute == "fp32" else 2
    width = narrow if deepspeed else 4
    frozen = 4 if config.method.quantize is not None else narrow
    weights = width * size.trained + frozen * size.frozen + _quantized(config, size)
    copies = 0.0 if compute == "fp32" or deepspeed else 2.0 * size.copied
    if by_weights > 1:  # the layer at work and the next one, and what is in no layer
        share = weights / (size.total or 1) if config.method.quantize is not None else narrow
        copies = share * (2 * size.largest_layer + size.outside)
    buckets = 2 if config.strategy.name == "ddp" and world > 1 else 1
    accumulation = max(1, config.batch.global_size // (config.batch.per_device * world))
    optim = str(config.trainer.get("optim", "adamw_torch"))
    state = (_state(optim) + (4 if deepspeed else 0)) * size.trained / by_state
    kept = activations.trace(
        architecture, config.method, compute, config.model.attention, config.batch.per_device, rows.longest
    )
    whole = Memory(
        weights=weights / by_weights,
        copies=copies,
        gradients=width * size.trained * buckets / by_gradients,
        optimizer=state,
        activations=rows.filled * kept.total(size.layers, bool(config.trainer.get("gradient_checkpointing"))),
        logits=_logits(config, size, rows, compute),
        reserve=config.plan.reserve_gb * GIB,
        accumulates=accumulation > 1,
        paged=optim.startswith("paged"),
        step=4 * size.trained / by_state if deepspeed else 0.0,
    )
    return _fullest(_offloaded(whole, config), spread(config), size)


def _offloaded(whole: Memory, config: TrainConfig) -> Memory:
    """The same with what waits in host memory taken there. DeepSpeed takes gradients along from stage 2 on."""
    strategy = config.strategy
    if strategy.offload == "none" or processes(config) == 1:
        return whole
    host = whole.optimizer + whole.step
    whole = replace(whole, optimizer=0.0, step=0.0)
    if strategy.name == "fsdp" or strategy.stage >= 2:
        host, whole = host + whole.gradients, replace(whole, gradients=0.0)
    if strategy.offload == "all":
        host, whole = host + whole.weights, replace(whole, weights=0.0)
    return replace(whole, host=host)


def _fullest(whole: Memory, gpus: int, size: Sizes) -> Memory:
    """The memory of the fullest of the GPUs that the layers are laid over: it has one of the embeddings besides."""
    if gpus == 1:
        return whole
    layers = math.ceil(size.layers / gpus) / size.layers
    outside = max(size.embedding, size.outside - size.embedding) / (size.total or 1)
    share = layers * (1 - size.outside / (size.total or 1)) + outside
    return replace(
        whole,
        weights=share * whole.weights,
        copies=share * whole.copies,
        gradients=share * whole.gradients,
        optimizer=share * whole.optimizer,
        activations=layers * whole.activations,
    )


def _logits(config: TrainConfig, size: Sizes, rows: Rows, compute: str) -> float:
    """Bytes that logits and loss take at the end of the forward pass."""
    if not config.training.fast:
        # logits, their fp32 copy where they are not, the log-softmax that is saved, and its gradient
        logit = 12 if compute == "fp32" else 14
        return logit * config.batch.per_device * rows.longest * size.vocabulary
    import torch

    from alpaca.chunked_loss import CHUNK_BYTES

    on_gpu = config.plan.gpu is not None or (torch.cuda.is_available() and not config.trainer.get("use_cpu"))
    everything = 4 * rows.filled * config.batch.per_device * rows.with_loss * size.vocabulary
    chunk = min(everything, CHUNK_BYTES["other" if on_gpu else "cpu"])
    # a chunk's logits and shares, in half precision also its slopes, and the output layer's gradient if it is trained
    gradient = 4 * size.vocabulary * size.hidden if config.method.train == "all" else 0
    return (2 if compute == "fp32" else 3) * chunk + gradient


def _quantized(config: TrainConfig, size: Sizes) -> float:
    """Bytes of the matrices that are kept in 8 or 4 bits, with their constants."""
    settings = config.method.quantize
    if settings is None:
        return 0.0
    if settings.bits == 8:
        return size.quantized + 4.0 * size.quantized_rows
    constants = 1 / 64 + 4 / (64 * 256) if settings.double else 4 / 64
    return size.quantized * (0.5 + constants)


def _state(optim: str) -> float:
    if "8bit" in optim or "bnb" in optim:
        return 2.0
    return STATE.get(optim, ADAM)


def operations(config: TrainConfig, size: Sizes, rows: Rows, tokens: float) -> float:
    """Floating-point operations of a run over so many tokens.

    Kaplan et al. (arXiv 2001.08361): 2 a parameter and token forward, 4 backward, of which 2 are for the weight's own
    gradient: a frozen one has none of them. Attention scores: 12 x layers x hidden x length a token (PaLM, arXiv
    2204.02311, appendix B). Checkpointing runs the forward pass twice. The input embedding is a look-up.
    """
    looked_up = size.embedding if size.embedding < size.outside else 0  # tied: it is the output layer as well
    if config.method.train == "all":
        weights = 6.0 * (size.total - looked_up)
    else:
        weights = 4.0 * (size.total - size.adapters - looked_up) + 6.0 * size.adapters
    forward = 2.0 * (size.total - looked_up)
    scores = 12.0 * size.layers * size.hidden * rows.per_row
    again = (forward + scores / 3) if config.trainer.get("gradient_checkpointing") else 0.0
    return tokens * (weights + scores + again)


@dataclass(frozen=True)
class Cost:
    """Of a run on `gpus` GPUs, of which `working` work at a time."""

    tokens: float
    operations: float
    gpus: int
    working: int
    hours: float
    usd: float


def cost(config: TrainConfig, size: Sizes, rows: Rows, epochs: float) -> Cost:
    """Hours and dollars on `plan.gpu`, at the assumed utilisation."""
    assert config.plan.gpu is not None
    gpu, plan = GPUS[config.plan.gpu], config.plan
    tokens = plan.tokens if plan.tokens is not None else rows.count * rows.per_row * epochs
    total = operations(config, size, rows, tokens)
    working = processes(config)
    count = working * spread(config)
    efficiency = plan.utilisation * (plan.node_efficiency if config.launch.nodes > 1 else 1.0)
    hours = total / (working * gpu.tflops * 1e12 * efficiency) / 3600
    price = gpu.usd if plan.usd_per_hour is None else plan.usd_per_hour
    return Cost(tokens, total, count, working, hours, hours * count * price)


def rows_of(config: TrainConfig, prepared: Any, count: int) -> Rows:
    """Lengths counted in the prepared data, or as long as the settings allow where there is none."""
    if config.plan.tokens is not None:
        return Rows(count, config.max_length, config.max_length, float(config.max_length), False)
    limit = config.longest
    given = config.plan.tokens_per_row
    if prepared is None:
        return Rows(count, limit, limit, given or float(limit), False)
    lengths, responses = prepared.train.lengths, prepared.train.lengths - prepared.train.prompt_lengths
    if config.data.packing:
        packed = PackedDataset(prepared.train, config.longest, config.seed)
        lengths, responses = packed.lengths, packed.with_loss
    longest = int(lengths.max())
    with_loss = int(responses.max()) if config.loss_on == "response" else longest
    per_row, filled = _micro_batches(lengths, config)
    return Rows(count, longest, min(longest, with_loss), given or per_row, True, filled)


def _micro_batches(lengths: Any, config: TrainConfig) -> tuple[float, float]:
    """(mean tokens of a row, `Rows.filled`) of micro-batches drawn at random or by length, padded unless training.fast."""
    import numpy as np

    size = config.batch.per_device
    order = np.random.default_rng(config.seed).permutation(len(lengths))
    if config.trainer.get("train_sampling_strategy") == "group_by_length":
        order = np.argsort(lengths)
    batches = [lengths[order[i : i + size]] for i in range(0, len(order), size)]
    if not config.training.fast:
        return float(sum(int(b.max()) * len(b) for b in batches) / len(lengths)), 1.0
    return float(lengths.mean()), max(int(b.sum()) for b in batches) / (size * int(lengths.max()))


def fits(config: TrainConfig, needed: Memory) -> bool:
    """Whether it goes onto `plan.gpu`, a paged optimiser with its pages moved out."""
    assert config.plan.gpu is not None
    return needed.at_least <= GPUS[config.plan.gpu].gib * GIB
