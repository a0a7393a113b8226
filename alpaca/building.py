"""The model and the Trainer of a run, built from the checked config and what was prepared. Takes no step."""

import random
from typing import Any

from alpaca import batch, compiling, console, data, devices, liger, method, one_reader, trainer_arguments, zero
from alpaca import model as base_model
from alpaca import precision as precisions
from alpaca import tracker as trackers
from alpaca.config import TrainConfig
from alpaca.errors import UserError
from alpaca.preparing import Parts
from alpaca.results import RunFolder


def shards(config: TrainConfig) -> bool:
    """Whether FSDP cuts the model: one process has nothing to cut."""
    return config.strategy.name == "fsdp" and devices.world_size() > 1


def seed_everything(seed: int) -> None:
    """Python, NumPy and torch draw the same numbers in every run with this seed."""
    from transformers import set_seed

    random.seed(seed)
    set_seed(seed)


def build_model(config: TrainConfig, folder: RunFolder, parts: Parts, precision: precisions.Precision) -> Any:
    """The base with its vocabulary fitted and what `method` trains marked."""
    import dataclasses

    import torch

    source = config.model
    if source.path is None:
        make_base(config, folder, parts)
        source = dataclasses.replace(source, path=str(folder.base))
    quantization = method.quantization(config.method, precision.compute, sharded=shards(config))
    device_map: Any = None
    if config.strategy.name == "device_map":
        device_map = "auto"
    elif quantization is not None and torch.cuda.is_available():
        device_map = {"": torch.cuda.current_device()}
    elif devices.world_size() > 1 and devices.uses_cuda(config) and not one_reader.applies(config):
        device_map = {"": torch.cuda.current_device()}  # a tensor at a time, and none stays in host memory
    model: Any
    if one_reader.applies(config) and not devices.is_main():
        architecture = base_model.architecture(source)
        model = base_model.shape(architecture, source.attention, trust_remote_code=source.trust_remote_code).eval()
    else:
        model = base_model.load(source, precision.weights, quantization=quantization, device_map=device_map)
    if grown := base_model.fit_vocabulary(model, parts.tokenizer):
        console.say(
            f"notice: {grown} token{'s' if grown > 1 else ''} added: new embedding rows are the mean of the old ones"
        )
    base_model.align_special_tokens(model, parts.tokenizer)
    seed_everything(config.seed)
    model = method.apply(model, config.method)
    if one_reader.applies(config):
        one_reader.agree_on_formats(model)
    return model


def make_base(config: TrainConfig, folder: RunFolder, parts: Parts) -> None:
    """A base model with random weights and its tokenizer in base/, unless they are there."""
    if (folder.base / "config.json").is_file():
        return
    assert config.model.architecture is not None
    seed_everything(config.seed)
    made = base_model.make(config.model.architecture, parts.tokenizer, config.model.attention)
    made.save_pretrained(folder.base_staging)
    parts.tokenizer.save_pretrained(folder.base_staging)
    folder.base_staging.rename(folder.base)  # base/ is whole or not there


def build_trainer(
    config: TrainConfig,
    folder: RunFolder,
    parts: Parts,
    model: Any,
    plan: batch.BatchPlan,
    precision: precisions.Precision,
) -> tuple[Any, Any]:
    """The Trainer and the callback that guards it."""
    from alpaca.guards import Guards
    from alpaca.trainer import AlpacaTrainer

    assert parts.prepared is not None
    prepared = parts.prepared
    arguments = training_arguments(config, folder, plan, precision, prepared.validation is not None)
    tracker = trackers.start(config, folder) if devices.is_main() else None
    guards = Guards()
    trainer = AlpacaTrainer(
        run=folder,
        loss_average=config.loss_average,
        tracker=tracker,
        engine=config.strategy,
        balance=config.training.balance,
        liger=liger.wanted(config, devices.uses_cuda(config)),
        compiler=compiling.take(dict(config.trainer)),
        model=model,
        args=arguments,
        train_dataset=parts.rows,
        eval_dataset=prepared.validation,
        data_collator=collator(config, parts, arguments.n_gpu),
        processing_class=parts.tokenizer,
        callbacks=[guards],
    )
    guards.trainer = trainer
    return trainer, guards


def collator(config: TrainConfig, parts: Parts, gpus: int) -> Any:
    """Flat batches, unless the plain way is asked for or one process splits each batch over several GPUs."""
    pad_id = parts.tokenizer.pad_token_id
    if not config.training.fast:
        return data.Collator(pad_id)
    if gpus > 1 and config.data.packing:
        raise UserError(
            f"data.packing=true cannot be split over {gpus} GPUs by one process: use launch.processes={gpus}"
        )
    if gpus > 1:
        console.say(
            f"notice: one process splits its batches over {gpus} GPUs, padded: launch.processes={gpus} is quicker"
        )
        return data.Collator(pad_id)
    return data.FlatCollator(pad_id)


def training_arguments(
    config: TrainConfig, folder: RunFolder, plan: batch.BatchPlan, precision: precisions.Precision, evaluates: bool
) -> Any:
    """`trainer:` and what other settings decide, as TrainingArguments. Raises UserError where these refuse."""
    import torch
    from transformers import TrainingArguments

    from alpaca.saving_trainer import ShardedArguments

    settings = trainer_arguments.converted(config.trainer)
    compiling.take(settings)
    if devices.uses_cuda(config):
        settings["accelerator_config"] = {"non_blocking": True} | (settings.get("accelerator_config") or {})
    if not evaluates:
        settings |= {"eval_strategy": "no", "eval_steps": None}
    if str(settings.get("optim", "")).startswith("paged") and not torch.cuda.is_available():
        console.say(f"notice: trainer.optim={settings['optim']} pages memory on CUDA only: adamw_torch is used here")
        settings["optim"] = "adamw_torch"
    elif str(settings.get("optim", "")).startswith("paged") and shards(config):
        console.say(f"notice: trainer.optim={settings['optim']} pages no state that is cut: adamw_torch is used here")
        settings["optim"] = "adamw_torch"
    if settings.get("optim") == "adamw_torch" and fuses(config):
        settings["optim"] = "adamw_torch_fused"
    if settings.get("gradient_checkpointing"):
        settings.setdefault("gradient_checkpointing_kwargs", {"use_reentrant": False})
    settings.setdefault("per_device_eval_batch_size", plan.per_device)
    if config.strategy.name == "deepspeed" and devices.world_size() > 1:
        settings["deepspeed"] = zero.settings(config.strategy)
        if not devices.uses_cuda(config):
            zero.join_without_gpu()
            settings["accelerator_config"] = {"use_configured_state": True}
    if not torch.cuda.is_available() and (devices.world_size() > 1 or precision.name == "bf16"):
        settings["use_cpu"] = True  # else the processes would not be joined, and bf16 would be refused
    settings.setdefault("ddp_find_unused_parameters", False)
    if precision.tf32:
        settings.setdefault("tf32", True)
    try:
        return (ShardedArguments if shards(config) else TrainingArguments)(
            output_dir=str(folder.checkpoints),
            seed=config.seed,
            per_device_train_batch_size=plan.per_device,
            gradient_accumulation_steps=plan.accumulation,
            bf16=precision.name == "bf16",
            fp16=precision.name == "fp16",
            report_to="none",
            remove_unused_columns=False,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            prediction_loss_only=True,
            log_level="error",
            **settings,
        )
    except (ValueError, ImportError, TypeError) as error:
        raise UserError(f"the trainer settings do not go together: {str(error).splitlines()[0]}") from error


def fuses(config: TrainConfig) -> bool:
    """Whether AdamW's step is one kernel: the same update to rounding, in a quarter of the time on a CPU."""
    if not config.training.fast or config.strategy.name == "deepspeed":
        return False
    return not shards(config) or (devices.uses_cuda(config) and config.strategy.offload == "none")
