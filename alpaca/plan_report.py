"""The plan as a person reads it: memory by part, does it fit, the nearest override that would, the table of methods.

Starts nothing and writes nothing.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca import config as configs
from alpaca import console, devices, planning, schema
from alpaca.config import MethodConfig, StrategyConfig, TrainConfig
from alpaca.gpus import GPUS
from alpaca.planning import GIB, Memory, Rows, Sizes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

METHODS = ("full", "lora", "lora8bit", "qlora")
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of GPUs that a plan tries; up to eight in a node."""
_METHOD_FILES = Path(__file__).resolve().parent.parent / "conf" / "method"


class Planner:
    """Plans for one model and its data, under changes of everything else."""

    def __init__(self, architecture: "PretrainedConfig", rows_for: Any, epochs: float) -> None:
        """`rows_for(config)`: the Rows of a config, whose padding depends on the batch."""
        self.architecture, self.rows_for, self.epochs = architecture, rows_for, epochs
        self._sizes: dict[str, Sizes] = {}

    def sizes(self, config: TrainConfig) -> Sizes:
        """Parameters under the config's method."""
        from alpaca import method
        from alpaca import model as base_model

        key = repr(config.method)
        if key not in self._sizes:
            model = method.apply(base_model.shape(self.architecture), config.method)
            self._sizes[key] = planning.sizes(model, config)
        return self._sizes[key]

    def memory(self, config: TrainConfig) -> Memory:
        """Bytes on each device."""
        return planning.memory(config, self.sizes(config), self.architecture, self.rows_for(config))

    def cost(self, config: TrainConfig) -> planning.Cost:
        """Hours and dollars."""
        return planning.cost(config, self.sizes(config), self.rows_for(config), self.epochs)

    def fits(self, config: TrainConfig) -> bool:
        """Whether it goes onto `plan.gpu`."""
        return planning.fits(config, self.memory(config))


ROOM = 0.95
"""Share of a GPU's memory that a run may need by the plan before activations are recomputed to save some."""


def decide_checkpointing(
    config: TrainConfig, architecture: "PretrainedConfig", prepared: Any, count: int
) -> TrainConfig:
    """trainer.gradient_checkpointing=auto as true or false: whether memory needs it by the plan; said.

    All processes of a run decide alike, by the smallest of their GPUs: they could not go through a step together else.
    """
    if config.trainer.get("gradient_checkpointing") != "auto":
        return config
    off, on = (
        dataclasses.replace(config, trainer=config.trainer | {"gradient_checkpointing": v}) for v in (False, True)
    )
    room = devices.least(_memory_of_gpu(config))
    if room == math.inf:
        console.say("gradient_checkpointing=auto: off, for there is no GPU whose memory could be too small")
        return off
    planner = Planner(architecture, lambda c: planning.rows_of(c, prepared, count), 1.0)
    needed = planner.memory(off)
    fits = needed.at_least <= ROOM * room
    console.say(
        f"gradient_checkpointing=auto: {'off' if fits else 'on'}, for the plan without it comes to "
        f"{needed.at_least / GIB:.1f} of {room / GIB:.1f} GiB"
    )
    return off if fits else on


def _memory_of_gpu(config: TrainConfig) -> float:
    """Bytes of the GPU that the plan names, or else of the one that is there; infinite where there is none."""
    if config.plan.gpu is not None:
        return GPUS[config.plan.gpu].gib * GIB
    import torch

    if not torch.cuda.is_available() or config.trainer.get("use_cpu"):
        return math.inf
    return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def show(config: TrainConfig, architecture: "PretrainedConfig", prepared: Any, count: int, epochs: float) -> None:
    """Say the plan on stderr; the table of `plan.compare` goes to stdout, for it is the result asked for."""
    rows_for = functools.cache(lambda size: planning.rows_of(_with_batch(config, size), prepared, count))
    planner = Planner(architecture, lambda c: rows_for(c.batch.per_device), epochs)
    needed, rows = planner.memory(config), rows_for(config.batch.per_device)
    console.say("\n".join(["", *memory_lines(config, needed, rows), *cost_lines(config, planner, rows)]))
    if config.plan.gpu is not None and not planner.fits(config):
        found = nearest(config, planner)
        console.say(
            f"nearest    {' '.join(found)}  would fit" if found else "nearest    nothing that was tried would fit"
        )
    elif config.plan.gpu is not None and (size := largest(config, planner)):
        peak = planner.memory(_with_batch(config, size)).peak / GIB
        console.say(
            f"room       batch.per_device={size} fits too ({peak:.2f} GiB): the same steps in fewer micro-batches; in small "
            "ones the GPU waits for the processor"
        )
    if config.plan.compare:
        print(table(config, planner))


def memory_lines(config: TrainConfig, needed: Memory, rows: Rows) -> list[str]:
    """One line for each part, and whether it fits."""
    count = planning.processes(config)
    where = (
        "no GPU named: plan.gpu=" + "|".join(GPUS)
        if config.plan.gpu is None
        else f"{count * planning.spread(config)} x {config.plan.gpu}"
    )
    compute = planning.compute_format(config)
    split = f", {_split(config)}" if _split(config) else ""
    own = config.strategy.name == "deepspeed" and count > 1
    checkpointing = "on" if config.trainer.get("gradient_checkpointing") else "off"
    parts = {
        f"weights ({_stored(config)})": needed.weights,
        f"working copies ({compute})": needed.copies,
        f"gradients ({compute if own else 'fp32'})": needed.gradients,
        f"optimiser ({config.trainer.get('optim')}{', may be paged out' if needed.paged else ''}"
        f"{', and fp32 weights' if own else ''})": needed.optimizer,
        "fp32 gradients for the optimiser's step": needed.step,
        f"activations ({config.batch.per_device} x {rows.longest} tokens, checkpointing {checkpointing})": needed.activations,
        "logits and loss": needed.logits,
        "assumed for driver, libraries, fragmentation (plan.reserve_gb)": needed.reserve,
    }
    lines = [f"memory     GiB on each device{split} ({where})"]
    lines += [f"  {value / GIB:9.2f}  {name}" for name, value in parts.items() if value]
    lines.append(f"  {needed.peak / GIB:9.2f}  at the peak (not every part is there at once)")
    if needed.host:
        here = devices.local_processes(config.launch) if config.launch.processes != "auto" else 1
        lines.append(
            f"  {needed.host / GIB:9.2f}  in host memory for each process (offloaded), {here * needed.host / GIB:.2f} on a node"
        )
    if config.plan.gpu is not None:
        room = GPUS[config.plan.gpu].gib
        verdict = "fits" if needed.peak <= room * GIB else "does not fit"
        if needed.at_least <= room * GIB < needed.peak:
            verdict = f"fits with optimiser pages in host memory ({needed.at_least / GIB:.2f} without them)"
        lines.append(f"           {verdict}: {config.plan.gpu} has {room:g} GiB")
    return lines


def _split(config: TrainConfig) -> str:
    """What is divided over how many, in words."""
    count, gpus = planning.processes(config), planning.spread(config)
    if gpus > 1:
        return f"the fullest of {gpus} that the layers are laid over"
    if not planning.sharded(config) or count == 1:
        return ""
    weights, gradients, _ = planning.divided(config)
    if weights > 1:
        return f"sharded over {count}"
    return f"{'gradients and optimiser' if gradients > 1 else 'optimiser'} sharded over {count}"


def _stored(config: TrainConfig) -> str:
    if config.method.quantize is not None:
        return f"base in {config.method.quantize.bits} bits, adapters fp32"
    compute = planning.compute_format(config)
    own = config.strategy.name == "deepspeed" and planning.processes(config) > 1
    if config.method.train == "all":
        return compute if own else "fp32"
    return f"base {compute}, adapters {compute if own else 'fp32'}"


def cost_lines(config: TrainConfig, planner: Planner, rows: Rows) -> list[str]:
    """Tokens, operations, hours and dollars with everything assumed in sight; nothing without a GPU."""
    plan = config.plan
    if plan.gpu is None:
        return []
    cost, gpu = planner.cost(config), GPUS[plan.gpu]
    if plan.tokens is not None:
        source = f"plan.tokens, from scratch, in sequences of {rows.longest}"
    else:
        how = "counted" if rows.counted else "given" if plan.tokens_per_row else "at most: the data is not here"
        padding = "" if config.training.fast else " with padding"
        source = f"{rows.count:,} rows x {rows.per_row:.0f} tokens{padding} ({how}) x {planner.epochs:g} epochs"
    price = gpu.usd if plan.usd_per_hour is None else plan.usd_per_hour
    turns = f"; {cost.gpus} GPUs take turns" if cost.working < cost.gpus else ""
    nodes = f" x {plan.node_efficiency:g} (plan.node_efficiency)" if config.launch.nodes > 1 else ""
    return [
        f"tokens     {cost.tokens:,.0f} = {source}",
        f"compute    {cost.operations:.3g} operations; {cost.working} x {gpu.tflops:g} TFLOP/s x {plan.utilisation:g} "
        f"assumed (plan.utilisation){nodes}{turns}",
        f"time       {_hours(cost.hours)}, {cost.hours * cost.gpus:,.1f} GPU hours",
        f"money      {_dollars(cost.usd)} at an assumed ${price:g} a GPU hour (plan.usd_per_hour)",
    ]


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return "<1 min"
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:,.1f} days"


def _dollars(usd: float) -> str:
    return f"${usd:,.0f}" if usd >= 100 else f"${usd:.2f}"


def largest(config: TrainConfig, planner: Planner) -> int | None:
    """The most rows of a micro-batch that leave the step as it is and fit with ROOM; None where no more than now do."""
    if config.loss_average != "token":  # a mean of micro-batches depends on their size
        return None
    share = config.batch.global_size // planning.processes(config)
    for size in (n for n in range(share, config.batch.per_device, -1) if share % n == 0):
        if planner.memory(_with_batch(config, size)).peak <= ROOM * GPUS[config.plan.gpu or ""].gib * GIB:
            return size
    return None


def nearest(config: TrainConfig, planner: Planner) -> list[str]:
    """The first overrides that fit, those that change least first; empty where none does."""
    for words, changed in _candidates(config):
        if planner.fits(changed):
            return words
    return []


def _candidates(config: TrainConfig) -> Iterator[tuple[list[str], TrainConfig]]:
    """The same mathematics in less memory; then more GPUs; then offloading; then another method; then many GPUs."""
    yield from _frugal(config)
    world = planning.processes(config)
    if config.strategy.name == "device_map":
        for count in (c for c in COUNTS if planning.spread(config) < c <= 8):
            plan = dataclasses.replace(config.plan, gpus=count)
            yield from _frugal(dataclasses.replace(config, plan=plan), [f"plan.gpus={count}"])
    for words, strategy in _stages(config):
        yield from _frugal(dataclasses.replace(config, strategy=strategy), words)
    for count in (c for c in COUNTS if world < c <= 8):
        yield from _frugal(_on(config, count), _on_words(config, count))
    for words, strategy in _offloads(config):
        yield from _frugal(dataclasses.replace(config, strategy=strategy), words)
    for name in METHODS:
        if METHODS.index(name) > _rank(config):
            yield from _frugal(with_method(config, name), [f"method={name}"])
    for count in (c for c in COUNTS if max(world, 8) < c):
        yield from _frugal(_on(config, count), _on_words(config, count))


def _stages(config: TrainConfig) -> Iterator[tuple[list[str], StrategyConfig]]:
    """DeepSpeed's higher stages."""
    strategy = config.strategy
    if strategy.name == "deepspeed" and planning.processes(config) > 1:
        for stage in (2, 3):
            if stage > strategy.stage:
                yield [f"strategy.stage={stage}"], dataclasses.replace(strategy, stage=stage)


def _offloads(config: TrainConfig) -> Iterator[tuple[list[str], StrategyConfig]]:
    """What could wait in host memory besides, on as many GPUs."""
    strategy = config.strategy
    if not planning.sharded(config) or planning.processes(config) == 1:
        return
    if strategy.name == "deepspeed" and strategy.offload == "none":
        yield ["strategy.offload=optimizer"], dataclasses.replace(strategy, offload="optimizer")
    if strategy.offload != "all":
        words = ["strategy.stage=3"] if strategy.name == "deepspeed" and strategy.stage < 3 else []
        yield [*words, "strategy.offload=all"], dataclasses.replace(strategy, stage=3, offload="all")


def _rank(config: TrainConfig) -> int:
    quantize = config.method.quantize
    return 0 if config.method.train == "all" else 1 if quantize is None else 2 if quantize.bits == 8 else 3


def _frugal(config: TrainConfig, words: list[str] | None = None) -> Iterator[tuple[list[str], TrainConfig]]:
    """The config as it is, with smaller micro-batches, and with checkpointing."""
    words = words or []
    checkpointing: list[tuple[list[str], dict[str, Any]]] = [
        ([], {}),
        (["trainer.gradient_checkpointing=true"], {"gradient_checkpointing": True}),
    ]
    world, now = planning.processes(config), config.batch.per_device
    fitting = [
        n for n in range(now, 0, -1) if config.batch.global_size % (n * world) == 0 and (n == now or not n & n - 1)
    ]
    for more, fields in checkpointing:
        for size in fitting:
            small = [f"batch.per_device={size}"] if size != now else []
            changed = _with_batch(dataclasses.replace(config, trainer=config.trainer | fields), size)
            yield [*words, *more, *small], changed


def _with_batch(config: TrainConfig, size: int) -> TrainConfig:
    return dataclasses.replace(config, batch=dataclasses.replace(config.batch, per_device=size))


def _on(config: TrainConfig, gpus: int) -> TrainConfig:
    """The config sharded over so many GPUs, up to eight in a node."""
    launch = dataclasses.replace(config.launch, processes=min(gpus, 8), nodes=max(1, gpus // 8))
    strategy = config.strategy
    if gpus > 1 and not planning.sharded(config):
        strategy = StrategyConfig(name="fsdp")
    return dataclasses.replace(config, launch=launch, strategy=strategy)


def _on_words(config: TrainConfig, gpus: int) -> list[str]:
    words = [] if planning.sharded(config) else ["strategy=fsdp"]
    if config.method.train == "all" and not planning.sharded(config):
        words = ["method=full_fsdp"]
    return [*words, f"launch.processes={min(gpus, 8)}", *([f"launch.nodes={gpus // 8}"] if gpus > 8 else [])]


@functools.cache
def _method_file(name: str) -> tuple[MethodConfig, dict[str, Any]]:
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.load(_METHOD_FILES / f"{name}.yaml"))
    faults: list[str] = []
    method = schema.build(MethodConfig, content["method"], "method", faults)
    configs.raise_all(faults)
    return method, content.get("trainer", {})


def with_method(config: TrainConfig, name: str) -> TrainConfig:
    """The config with `method=name`, as conf/ has it."""
    method, trainer = _method_file(name)
    trainer = {"optim": "adamw_torch"} | trainer
    return dataclasses.replace(config, method=method, trainer=config.trainer | trainer)


def table(config: TrainConfig, planner: Planner) -> str:
    """Methods against GPUs: the fewest GPUs that hold the run, its hours and its dollars."""
    names = list(GPUS)
    lines = [
        f"{config.model.name}: fewest GPUs that hold it, hours, dollars (global batch {config.batch.global_size}, "
        f"up to {planner.rows_for(config).longest} tokens)",
        f"{'':<10}" + "".join(f"{name:<21}" for name in METHODS),
    ]
    for gpu in names:
        cells = []
        for name in METHODS:
            changed = with_method(dataclasses.replace(config, plan=dataclasses.replace(config.plan, gpu=gpu)), name)
            changed = dataclasses.replace(changed, strategy=StrategyConfig(name="single"))
            cells.append(_cell(changed, planner))
        lines.append(f"{gpu:<10}" + "".join(f"{cell:<21}" for cell in cells))
    lines.append(
        "* with trainer.gradient_checkpointing=true; several GPUs: strategy=fsdp, nodes of eight; - : not with 256"
    )
    lines.append(
        f"assumed: {config.plan.utilisation:g} of peak throughput, {config.plan.node_efficiency:g} of that over nodes, "
        "prices of alpaca/gpus.py: plan.utilisation, plan.node_efficiency, plan.usd_per_hour"
    )
    return "\n".join(lines)


def _cell(config: TrainConfig, planner: Planner) -> str:
    for count in COUNTS:
        for _, changed in _frugal(_on(config, count)):
            if planner.fits(changed):
                cost = planner.cost(changed)
                mark = "*" if changed.trainer.get("gradient_checkpointing") else ""
                return f"{count}{mark} {_hours(cost.hours)} {_dollars(cost.usd)}"
    return "-"
