"""What is wrong with a training config whose values are well typed: out of range, lacking, or not to be had together."""

from alpaca import schema, trainer_arguments
from alpaca.config import PlanConfig, TrainConfig
from alpaca.gpus import GPUS


def problems(config: TrainConfig) -> list[str]:
    """What is wrong with well-typed values, each a line."""
    return [
        *_numbers(config),
        *_model_problems(config),
        *_method_problems(config),
        *_data_problems(config),
        *_plan_problems(config.plan),
        *trainer_arguments.problems(config.trainer),
    ]


def _numbers(config: TrainConfig) -> list[str]:
    positive = {
        "batch.global_size": config.batch.global_size,
        "batch.per_device": config.batch.per_device,
        "max_length": config.max_length,
        "source_max_length": config.source_max_length,
        "target_max_length": config.target_max_length,
        "launch.nodes": config.launch.nodes,
        "plan.gpus": config.plan.gpus,
        "data.limit": config.data.limit,
        "launch.processes": None if config.launch.processes == "auto" else config.launch.processes,
        "model.vocab_size": config.model.vocab_size,
    }
    faults = [
        f"{k}={v} is not allowed: it takes a whole number of 1 or more"
        for k, v in positive.items()
        if isinstance(v, int) and v < 1
    ]
    if not 0 <= config.seed < 2**32:
        faults.append(f"seed={config.seed} is not allowed: it takes a whole number from 0 to 4294967295")
    if config.data.shuffle_seed is not None and config.data.shuffle_seed < 0:
        faults.append(f"data.shuffle_seed={config.data.shuffle_seed} is not allowed: it takes 0 or more, or null")
    validation = config.data.validation
    if validation is not None and (validation < 0 or (isinstance(validation, float) and validation >= 1)):
        faults.append(
            f"data.validation={validation} is not allowed: it takes a number of rows (2000), a fraction below 1 (0.05) or null"
        )
    return faults


def _model_problems(config: TrainConfig) -> list[str]:
    model = config.model
    faults = []
    if model.path is None and model.architecture is None:
        faults.append("model.path is missing: give a local folder or a hub id, model.path=DIR_OR_HUB_ID")
    if model.path is not None and not model.path.strip():
        faults.append("model.path is empty: give a local folder or a hub id, model.path=DIR_OR_HUB_ID")
    made = model.path is None and model.tokenizer is None and model.architecture and model.vocab_size is None
    if made and "vocab_size" in (model.architecture or {}):
        if not config.dry_run:
            faults.append(
                f"model={model.name} is only dimensions: use dry_run=true, or give weights with model.path=DIR"
            )
    elif made:
        faults.append("model.vocab_size is missing: a model made on the spot needs it, or model.tokenizer=DIR")
    if model.architecture is not None and not isinstance(model.architecture.get("model_type"), str):
        faults.append(
            "model.architecture.model_type is missing: it takes a Hugging Face model type, such as llama or opt"
        )
    return faults


def _method_problems(config: TrainConfig) -> list[str]:
    method, faults = config.method, []
    if method.train == "lora" and method.lora is None:
        faults.append(
            f"method.lora is missing: method={method.name} trains LoRA adapters; give r, alpha, dropout, targets"
        )
    if (lora := method.lora) is not None:
        if lora.r < 1:
            faults.append(f"method.lora.r={lora.r} is not allowed: it takes a whole number of 1 or more")
        if lora.alpha <= 0:
            faults.append(f"method.lora.alpha={lora.alpha:g} is not allowed: it takes a number above 0")
        if not 0 <= lora.dropout < 1:
            faults.append(f"method.lora.dropout={lora.dropout:g} is not allowed: it takes a number from 0 to below 1")
        if not lora.targets or isinstance(lora.targets, str) and lora.targets != "all-linear":
            faults.append(
                f"method.lora.targets={lora.targets or 'empty'} is not allowed: it takes a list such as [q_proj,v_proj], or all-linear"
            )
    faults += _strategy_problems(config)
    several = config.launch.processes not in ("auto", 1) or config.launch.nodes > 1
    if config.strategy.name == "device_map" and several:
        faults.append(
            "strategy=device_map spreads one process over the GPUs: it goes with launch.processes=1; for several processes use strategy=ddp"
        )
    if config.strategy.name == "single" and several:
        faults.append(
            "strategy=single is one process: it goes with launch.processes=1 and launch.nodes=1; "
            "for several use strategy=ddp, fsdp or deepspeed"
        )
    if config.launch.nodes > 1 and config.launch.rendezvous is None and not config.dry_run:
        faults.append(
            f"launch.rendezvous is missing: {config.launch.nodes} nodes meet at HOST:PORT of the first one, on any free port"
        )
    if config.strategy.name == "deepspeed" and method.quantize is not None:
        faults.append("strategy=deepspeed cannot shard a quantised base: use strategy=fsdp or ddp, or method=lora")
    return faults


def _strategy_problems(config: TrainConfig) -> list[str]:
    strategy, faults = config.strategy, []
    if strategy.name == "fsdp" and strategy.offload == "optimizer":
        faults.append(
            "strategy.offload=optimizer goes with strategy=deepspeed: FSDP moves all or nothing, strategy.offload=all"
        )
    if strategy.name == "deepspeed" and strategy.offload == "all" and strategy.stage < 3:
        faults.append(
            "strategy.offload=all needs strategy.stage=3, which cuts the parameters: use strategy.offload=optimizer"
        )
    if strategy.name not in ("fsdp", "deepspeed") and strategy.offload != "none":
        faults.append(f"strategy.offload={strategy.offload} goes with strategy=fsdp or deepspeed")
    quantize = config.method.quantize
    if strategy.name == "fsdp" and quantize is not None and quantize.bits == 8:
        faults.append(
            "strategy=fsdp cannot shard an 8-bit base: bitsandbytes keeps its scales on the whole weight, which is gone "
            "when it is cut; use method=qlora or lora, or strategy=ddp"
        )
    # a backend or a mode alone switches compiling on, as in transformers
    compiles = any(config.trainer.get(f"torch_compile{key}") for key in ("", "_backend", "_mode"))
    if compiles and strategy.name in ("fsdp", "deepspeed", "device_map"):
        faults.append(
            f"trainer.torch_compile cannot be with strategy={strategy.name}: compiled graphs do not see parameters "
            "being gathered and moved; use strategy=ddp or single"
        )
    optim = str(config.trainer.get("optim", ""))
    if strategy.name in ("fsdp", "deepspeed") and ("8bit" in optim or "bnb" in optim):
        faults.append(
            f"trainer.optim={optim} cannot be with strategy={strategy.name}: bitsandbytes' optimisers know nothing of "
            "state that is cut over processes; use trainer.optim=adamw_torch, or strategy=ddp"
        )
    if compiles and config.training.liger is True:
        faults.append(
            "training.liger=true cannot be with trainer.torch_compile: torch could not compile Liger's kernels; leave one out"
        )
    if compiles and config.method.quantize is not None:
        faults.append(
            "trainer.torch_compile cannot be with a quantised base: bitsandbytes' kernels break the graph at every layer"
        )
    return faults


def _data_problems(config: TrainConfig) -> list[str]:
    faults = []
    data, prompt = config.data, config.prompt
    if not (data.path or data.hub):
        faults.append(f"data.path is missing: data={data.name} needs a file, a folder or a hub id, data.path=FILE")
    if (config.source_max_length is None) != (config.target_max_length is None):
        faults.append("source_max_length and target_max_length go together: give both, or neither and max_length")
    if prompt.kind == "text":
        for name, parts in {"with_input": ("{instruction}", "{input}"), "without_input": ("{instruction}",)}.items():
            lacking = [p for p in parts if p not in getattr(prompt, name)]
            if lacking:
                faults.append(f"prompt.{name} lacks {' and '.join(lacking)}: the template must say where they go")
    if data.packing and not config.training.fast:
        faults.append(
            "data.packing lays examples end to end, which training.fast=false does not: leave one of them out"
        )
    if config.training.balance and config.loss_average == "microbatch":
        faults.append(
            "training.balance cannot be with loss_average=microbatch: a mean of micro-batches depends on which rows "
            "share one; use loss_average=token"
        )
    if config.training.balance and config.trainer.get("train_sampling_strategy") == "batch_rebalance":
        faults.append(
            "training.balance does what trainer.train_sampling_strategy=batch_rebalance does: use one of them"
        )
    if prompt.kind == "chat" and config.source_max_length is not None:
        faults.append("prompt=chat goes with max_length: a chat template cannot be cut in two parts")
    return faults


def _plan_problems(plan: PlanConfig) -> list[str]:
    faults = []
    if plan.gpu is not None and plan.gpu not in GPUS:
        near = schema.nearest(plan.gpu, list(GPUS))
        faults.append(f"plan.gpu={plan.gpu} is not known{near} (allowed: {', '.join(GPUS)})")
    for name in ("utilisation", "node_efficiency"):
        if not 0 < getattr(plan, name) <= 1:
            faults.append(f"plan.{name}={getattr(plan, name):g} is not allowed: it takes a number above 0, up to 1")
    for name in ("usd_per_hour", "reserve_gb", "tokens", "tokens_per_row"):
        value = getattr(plan, name)
        if value is not None and value < 0:
            faults.append(f"plan.{name}={value:g} is not allowed: it takes a number of 0 or more")
    return faults
