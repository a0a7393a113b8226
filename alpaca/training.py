"""A training run put together from its parts, from the checked config to the saved and re-read model. Knows no UI."""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca import (
    batch,
    checkpoints,
    console,
    data,
    devices,
    launch,
    liger,
    method,
    one_reader,
    plan_report,
    preview,
    rows,
    saving,
    sharding,
    support,
    trainer_arguments,
    zero,
)
from alpaca import model as base_model
from alpaca import precision as precisions
from alpaca import tokenizer as tokenizers
from alpaca import tracker as trackers
from alpaca.config import DataConfig, TrainConfig
from alpaca.errors import Interrupted, UserError, first_line
from alpaca.packing import PackedDataset
from alpaca.prompts import Prompt
from alpaca.results import RunFolder


@dataclass
class Parts:
    """What a run is made of before there is a model."""

    tokenizer: Any
    prompt: Prompt
    prepared: data.Prepared | None
    architecture: Any
    packed: PackedDataset | None = None

    @property
    def rows(self) -> Any:
        """What is trained on and counted in batches: the examples, or packed rows of them; None without data."""
        return self.packed or (self.prepared.train if self.prepared else None)


def prepare_for_workers(config: TrainConfig, folder: RunFolder) -> None:
    """What every process of a run would do alike, done once before they start: cached data, and the base when made here."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    support.check(config, None, precisions.choose(config).name)
    seed_everything(config.seed)
    parts = prepare(config, folder)
    assert parts.prepared is not None
    plan_of(config, len(parts.rows))
    if config.model.path is None:
        make_base(config, folder, parts)


def run(config: TrainConfig, folder: RunFolder) -> None:
    """Train as `config` says, in `folder`; with `dry_run` everything but the steps. Runs in every process of a run."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    precision = precisions.choose(config)
    plan_of(config, 1)  # batches that do not divide, and a checkpoint that is not there, cost no loading
    liger.wanted(config, devices.uses_cuda(config))  # a refusal likewise
    resume = None if config.dry_run else checkpoints.find(config.resume, folder.checkpoints)
    seed_everything(config.seed)
    if not config.dry_run:
        support.check(config, None, precision.name)
    with console.muted(devices.world_size() > 1):  # the launcher has prepared, and said what there is to say
        parts = prepare(config, folder)
    if config.dry_run:
        dry_run(config, parts, precision)
        return
    assert parts.prepared is not None
    config = plan_report.decide_checkpointing(config, model_shape(config, parts), parts.prepared, len(parts.rows))
    support.check(config, parts.architecture, precision.name)
    model = build_model(config, folder, parts, precision)
    plan = plan_of(config, len(parts.rows))
    trainable, total = method.count(model)
    preview.arithmetic(plan, parts.prepared.report, trainable, total, precision.name, parts.packed)
    preview.spans(parts.prepared.train, parts.tokenizer)
    console.say(f"run folder {folder.path}")
    if resume is not None:
        check_engine(config, resume)
    if shards(config):
        kind = "cuda" if devices.uses_cuda(config) else "cpu"
        model = sharding.shard(model, config.strategy, precision, kind, one_reader.applies(config))
        console.say(sharding.report(model))
    if config.rehearse_save and resume is None:
        saving.rehearse(model, parts.tokenizer, parts.prompt, config, folder, trainable)
    if one_reader.applies(config) and config.strategy.name == "deepspeed":
        zero.cut(model, config.strategy, precision.compute)
    trainer, guards = build_trainer(config, folder, parts, model, plan, precision)
    train(trainer, guards, folder, resume)
    finish(config, folder, parts, trainer, plan, trainable, total)


def shards(config: TrainConfig) -> bool:
    """Whether FSDP cuts the model: one process has nothing to cut."""
    return config.strategy.name == "fsdp" and devices.world_size() > 1


def check_engine(config: TrainConfig, resume: Path) -> None:
    """Raise UserError where a checkpoint was written by an engine whose files this one cannot read."""
    state = checkpoints.state(resume)
    before = state.get("engine", "ddp")
    alike = {"single": "ddp", "device_map": "ddp"}
    if alike.get(before, before) != alike.get(config.strategy.name, config.strategy.name):
        raise UserError(
            f"{resume} was written by strategy={before}, and strategy={config.strategy.name} cannot go on from it: "
            f"use strategy={before}, or resume=none to start again"
        )
    processes, now = state.get("processes", 1), devices.world_size()
    if before == "deepspeed" and processes != now:
        raise UserError(
            f"{resume} was written by DeepSpeed on {processes} processes, and its files are cut for just these: "
            f"use launch.processes={processes}, or resume=none to start again (strategy=fsdp goes on with any number)"
        )


def check_order(resume: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError where a checkpoint's run went through other rows, or in another order, than this one would."""
    changed = [k for k in now if before.get(k, now[k]) != now[k]]
    if not changed:
        return
    if "data" in changed:
        what = "the rows, the tokenizer, the prompt or the length limits have changed"
    else:
        what = ", ".join(f"{k}={before[k]} then, {now[k]} now" for k in changed)
    raise UserError(
        f"{resume} cannot be gone on from: {what}, so that rows would be seen twice or never; restore what was, "
        "or use resume=none to start again"
    )


def seed_everything(seed: int) -> None:
    """Python, NumPy and torch draw the same numbers in every run with this seed."""
    from transformers import set_seed

    random.seed(seed)
    set_seed(seed)


def prepare(config: TrainConfig, folder: RunFolder) -> Parts:
    """Tokenizer and tokenised data. In a dry run a tokenizer or data set out of reach is said and left out."""
    prompt = Prompt.from_config(config.prompt)
    architecture = None
    if config.model.path is not None:
        architecture = base_model.architecture(config.model, prefer_yaml=config.dry_run)
        if not config.dry_run and Path(config.model.path).is_dir():
            base_model.check_weights(Path(config.model.path))
    elif config.model.tokenizer is None and config.model.vocab_size is None:
        console.warn(
            f"model={config.model.name} has no tokenizer: a dry run shows no token counts and no spans (model.tokenizer=DIR)"
        )
        return Parts(None, prompt, None, None)
    try:
        tokenizer, source = make_tokenizer(config, folder)
        for notice in tokenizers.check_special_tokens(tokenizer, architecture_config=architecture):
            console.say(f"notice: {notice}")
        prepared = data.prepare(config, tokenizer, prompt, source)
    except UserError as error:
        if not config.dry_run or not out_of_reach(config):
            raise
        console.warn(f"{error}\nwithout it a dry run shows no token counts and no spans")
        return Parts(None, prompt, None, architecture)
    check_lengths(config, architecture, prepared)
    packed = PackedDataset(prepared.train, config.longest, config.seed) if config.data.packing else None
    return Parts(tokenizer, prompt, prepared, architecture, packed)


def out_of_reach(config: TrainConfig) -> bool:
    """Whether tokenizer or data come from a hub, so that a dry run may do without them."""
    source = config.model.tokenizer or config.model.path
    tokenizer_on_hub = source is not None and not Path(source).exists()
    return tokenizer_on_hub or (config.data.path is None and config.data.hub is not None)


def make_tokenizer(config: TrainConfig, folder: RunFolder) -> tuple[Any, rows.Rows | None]:
    """The tokenizer, and the rows where they had to be read for it (a tokenizer trained on the data)."""
    model = config.model
    source = model.tokenizer or model.path
    if source is not None:
        revision = model.revision if model.tokenizer is None else None
        return tokenizers.load_tokenizer(source, revision=revision, trust_remote_code=model.trust_remote_code), None
    assert model.vocab_size is not None and model.architecture is not None
    if (folder.base / "config.json").is_file():
        return tokenizers.load_tokenizer(str(folder.base)), None
    found = rows.read(config.data)
    texts = [text for row in found.rows for text in (row["instruction"], row["input"], row["output"]) if text]
    texts += [part for text in (config.prompt.with_input, config.prompt.without_input) for part in [text] if part]
    target = folder.base_staging if not config.dry_run else Path(_temporary())
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizers.train_tokenizer(texts, model.vocab_size, target, model_type=model.architecture["model_type"])
    return tokenizer, found


def _temporary() -> str:
    import atexit
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="alpaca-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def check_lengths(config: TrainConfig, architecture: Any, prepared: data.Prepared) -> None:
    """Raise UserError when rows are longer than the model has positions."""
    if architecture is None:
        limit = (config.model.architecture or {}).get("max_position_embeddings")
    else:
        limit = getattr(architecture, "max_position_embeddings", None)
    if limit and prepared.report.longest > limit:
        raise UserError(
            f"the longest row has {prepared.report.longest} tokens, and the model takes {limit}: use max_length={limit} or less"
        )


def plan_of(config: TrainConfig, rows_for_training: int) -> batch.BatchPlan:
    """The batch arithmetic of this config on the devices that are there."""
    count = devices.worker_count(config)
    settings = trainer_arguments.converted(config.trainer)
    return batch.plan(
        config.batch,
        count,
        rows_for_training,
        settings.get("num_train_epochs", 3.0),
        settings.get("max_steps", -1),
        settings.get("dataloader_drop_last", False),
    )


def dry_run(config: TrainConfig, parts: Parts, precision: precisions.Precision) -> None:
    """Parameters from the meta device, batch arithmetic, lengths and spans; nothing is written."""
    architecture = model_shape(config, parts)
    row_count = len(parts.rows) if parts.prepared else known_rows(config.data)
    config = plan_report.decide_checkpointing(config, architecture, parts.prepared, row_count)
    shape = base_model.shape(architecture)
    model = method.apply(shape, config.method)
    trainable, total = method.count(model)
    if config.data.packing and not parts.prepared:
        console.warn("the data is not here to be packed: steps are counted as if each row held one example")
    plan = plan_of(config, row_count)
    report = parts.prepared.report if parts.prepared else None
    preview.arithmetic(plan, report, trainable, total, precision.name, parts.packed)
    if parts.prepared:
        preview.spans(parts.prepared.train, parts.tokenizer)
    plan_report.show(config, architecture, parts.prepared, row_count, plan.epochs)
    console.say("dry run: no step was taken and no model was written")


def model_shape(config: TrainConfig, parts: Parts) -> Any:
    """The Hugging Face config of the model that is trained, also where it is made on the spot."""
    if parts.architecture is not None:
        return parts.architecture
    assert config.model.architecture is not None
    size = {"vocab_size": len(parts.tokenizer)} if parts.tokenizer is not None else {}
    return base_model.from_yaml(config.model.architecture | size)


def known_rows(config: DataConfig) -> int:
    """Rows for training as far as the config tells."""
    count = min(x for x in (config.rows, config.limit, 10**12) if x is not None)
    if count == 10**12:
        return len(rows.read(config).rows)
    validation = config.validation or 0
    held_out = int(validation) if isinstance(validation, int) else round(count * validation)
    return max(1, count - held_out)


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
    from alpaca.trainer import AlpacaTrainer, Guards

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

    from alpaca.trainer import ShardedArguments

    settings = trainer_arguments.converted(config.trainer)
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


def train(trainer: Any, guards: Any, folder: RunFolder, resume: Path | None) -> None:
    """The steps. After a signal: saved, and raised as Interrupted."""
    if resume is not None:
        state = checkpoints.state(resume)
        check_order(resume, state.get("order", {}), trainer.order())
        console.say(f"resuming from {resume} at step {state['step']}")
        trainer.restore(state)
    if devices.is_main():
        folder.cut_metrics(state["step"] if resume is not None else -1)
    if devices.rank() > 0:
        seed_everything(trainer.args.seed + devices.rank())  # dropout differs between processes
    try:
        with guards.listening(), trainer.read_after_an_error():
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except (RuntimeError, ValueError) as error:
        if resume is None or not any(w in str(error) for w in ("loading state_dict", "parameter group")):
            raise
        raise UserError(
            f"{resume} is of another model or method than this run ({first_line(error)}): restore model and method, "
            "or use resume=none to start again"
        ) from error
    finally:
        if trainer.tracker is not None and guards.signal is not None:
            trainer.tracker.finish("interrupted")
    if guards.signal is not None and trainer.state.global_step < trainer.state.max_steps:
        step = trainer.state.global_step
        raise Interrupted(
            f"stopped at step {step} of {trainer.state.max_steps}, saved; run the same command with "
            f"hydra.run.dir={folder.path} to go on",
            128 + guards.signal,
        )


def last_evaluation(trainer: Any) -> float:
    """The validation loss after the last step, evaluated now unless the steps ended with it."""
    for entry in reversed(trainer.state.log_history):
        if "eval_loss" in entry and entry["step"] == trainer.state.global_step:
            return entry["eval_loss"]
    return trainer.evaluate()["eval_loss"]


def finish(
    config: TrainConfig,
    folder: RunFolder,
    parts: Parts,
    trainer: Any,
    plan: batch.BatchPlan,
    trainable: int,
    total: int,
) -> None:
    """Save the model, read it again in a fresh process, plot, write result.json and print the next command."""
    import torch

    assert parts.prepared is not None
    figures: dict[str, Any] = {
        "step": trainer.state.global_step,
        "tokens": trainer.tokens,
        "seconds": round(trainer.seconds, 1),
    }
    if parts.prepared.validation is not None:
        figures["eval_loss"] = last_evaluation(trainer)
    model, engine = trainer.model, trainer.deepspeed
    if config.method.train == "lora" and (fault := saving.adapter_faults(model)) and trainer.state.global_step > 1:
        raise RuntimeError(f"the adapter is empty: {fault}")
    saving.save(model, parts.tokenizer, parts.prompt, config, folder.model, engine)
    if config.check_saved:
        dataset = parts.prepared.train
        probe = data.Collator(parts.tokenizer.pad_token_id)([dataset[i] for i in range(min(2, len(dataset)))])
        saving.write_probe(engine or model, probe, folder.path / saving.PROBE, trainer.args.device)
    if not devices.is_main():
        return
    if trainer.tracker is not None:
        trainer.tracker.finish("completed")
    trainer.model = trainer.model_wrapped = trainer.deepspeed = trainer.optimizer = None
    del model, engine
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if config.check_saved:
        try:
            console.say(saving.check_in_fresh_process(folder))
        finally:
            (folder.path / saving.PROBE).unlink(missing_ok=True)
    folder.plot()
    losses = [m["loss"] for m in folder.read_metrics() if "loss" in m]
    figures |= {"loss": losses[-1] if losses else None, "trainable": trainable, "parameters": total}
    figures |= {"packed_rows": len(parts.packed)} if parts.packed else {}
    figures |= {
        "epochs": plan.epochs,
        "rows": len(parts.prepared.train),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    folder.write_result("completed", **figures)
    console.say(
        f"\ndone: {figures['step']} steps, last loss {figures['loss']:.4f}, model in {folder.model}\n\n{launch.next_command(folder)}"
    )
