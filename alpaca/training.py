"""A training run put together from its parts, from the checked config to the saved and re-read model. Knows no UI."""

import time
from pathlib import Path
from typing import Any

from alpaca import (
    batch,
    checkpoints,
    console,
    data,
    devices,
    launch,
    libraries,
    liger,
    method,
    one_reader,
    plan_report,
    preview,
    saving,
    sharding,
    support,
    zero,
)
from alpaca import model as base_model
from alpaca import precision as precisions
from alpaca.building import build_model, build_trainer, make_base, seed_everything, shards
from alpaca.config import TrainConfig
from alpaca.errors import Interrupted, UserError, first_line
from alpaca.preparing import Parts, known_rows, model_shape, plan_of, prepare
from alpaca.results import RunFolder


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
    if not config.dry_run:
        libraries.read("transformers.trainer")
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
