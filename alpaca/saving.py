"""The final model: saved whole, rehearsed before the first step, and checked in a fresh process after the last one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from alpaca import checkpoints, console, devices, sharding, zero
from alpaca.config import TrainConfig
from alpaca.errors import UserError, first_line, is_write_error
from alpaca.prompts import Prompt
from alpaca.results import RunFolder

PROBE = "probe.safetensors"
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}
"""Largest difference of a logit, relative to the largest logit, between memory and what was reloaded."""


def save(model: Any, tokenizer: Any, prompt: Prompt, config: TrainConfig, folder: Path, engine: Any = None) -> None:
    """Weights or adapter, tokenizer, prompt and card into `folder`: written beside and renamed.

    Called by every process of a run, since a sharded model is gathered by all; the first one writes. `engine`:
    DeepSpeed's, where it holds the model.
    """
    lora = config.method.train == "lora"
    whole = sharding.gathered(model, lora) if is_sharded(model) else None
    if engine is not None:
        whole = zero.gathered(engine, config.strategy, lora)
    if not devices.is_main():
        return
    staging = folder.with_name(f".{folder.name}.writing")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        options: dict[str, Any] = {"save_embedding_layers": False} if lora else {}
        if whole is not None:
            options["state_dict"] = whole
        model.save_pretrained(staging, safe_serialization=True, **options)
        tokenizer.save_pretrained(staging)
        prompt.save(staging)
        (staging / "README.md").write_text(card(config), encoding="utf-8")
        for path in staging.iterdir():
            checkpoints.sync(path)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    except Exception as error:
        shutil.rmtree(staging, ignore_errors=True)
        if is_write_error(error):
            raise UserError(
                f"the model cannot be written to {folder} ({first_line(error)}): free some space and run the same "
                f"command with hydra.run.dir={folder.parent}; the newest checkpoint is taken up"
            ) from error
        raise


def is_sharded(model: Any) -> bool:
    """Whether FSDP has cut this model."""
    return getattr(model, "_is_fsdp_managed_module", False)


def rehearse(model: Any, tokenizer: Any, prompt: Prompt, config: TrainConfig, run: RunFolder, trainable: int) -> None:
    """Save once before the first step and throw it away, with room for the checkpoints to come. Raises UserError."""
    trial = run.path / "rehearsal"
    save(model, tokenizer, prompt, config, trial)
    if not devices.is_main():
        return
    size = sum(p.stat().st_size for p in trial.rglob("*") if p.is_file())
    shutil.rmtree(trial)
    kept = 0 if config.trainer.get("save_strategy") == "no" else (config.trainer.get("save_total_limit") or 1) + 1
    needed = size + kept * (size + 8 * trainable)  # Adam keeps two fp32 numbers a trained parameter
    free = shutil.disk_usage(run.path).free
    if free < needed:
        raise UserError(
            f"{run.path} has {free / 1e9:.1f} GB free, and this run writes up to {needed / 1e9:.1f} GB (a model and {kept} "
            "checkpoints): free some space, keep fewer with trainer.save_total_limit=1, or give another folder with hydra.run.dir=DIR"
        )
    console.say(
        f"saving rehearsed: {size / 1e6:,.1f} MB a model, up to {needed / 1e9:.2f} GB in all, {free / 1e9:.0f} GB free"
    )


def card(config: TrainConfig) -> str:
    """A short model card with Hugging Face front matter."""
    base = config.model.path or f"{config.model.name} (random weights, made on the spot)"
    front = ["---", "pipeline_tag: text-generation"]
    if config.model.path:
        front.append(f"base_model: {json.dumps(config.model.path)}")
    front.append("library_name: " + ("peft" if config.method.train == "lora" else "transformers"))
    source = config.data.path or config.data.hub
    loading = "- load with `AutoPeftModelForCausalLM`, which fits the base's vocabulary to this tokenizer\n"
    return "\n".join(front) + (
        f"\n---\n\n# {config.model.name} tuned on {config.data.name}\n\n"
        f"- base: {base}\n- method: {config.method.name}\n- data: {Path(source or '').name}\n"
        f"- prompt: `{config.prompt.name}`, kept in prompt.json; the model answers to exactly that text\n"
        f"{loading if config.method.train == 'lora' else ''}"
        f"- loss on: {config.loss_on}; sequences up to {config.max_length} tokens\n"
        f"- batch of {config.batch.global_size} sequences, learning rate {config.trainer.get('learning_rate')}, seed {config.seed}\n\n"
        "The licences of the base model and of the data apply to these weights. Answers may be wrong or harmful: "
        "evaluate before you rely on them.\n"
    )


def adapter_faults(model: Any) -> str | None:
    """Why an adapter in memory holds nothing, or None."""
    matrices = [p for n, p in model.named_parameters() if "lora_B" in n]
    if not matrices:
        return "it has no LoRA B matrix"
    here = sum(bool(_own_part(p).any()) for p in matrices)
    if devices.agree([here])[0] == 0:
        return "every B matrix is zero: it changes nothing"
    return None


def _own_part(parameter: Any) -> Any:
    """What this process holds of a parameter: of a DTensor, of one that ZeRO-3 cut, or all of it."""
    if hasattr(parameter, "to_local"):
        return parameter.to_local()
    return getattr(parameter, "ds_tensor", parameter)


def write_probe(model: Any, batch: dict[str, Any], path: Path, device: Any) -> None:
    """Logits of one batch as they are in memory, for the fresh process to compare with. Called by every process."""
    import torch
    from safetensors.torch import save_file

    was_training = model.training
    model.eval()
    ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().cpu()
    model.train(was_training)
    if not devices.is_main():
        return
    adapter = sum(1 for n, _ in model.named_parameters() if "lora_" in n)
    tensors = {"input_ids": ids.cpu(), "attention_mask": mask.cpu(), "logits": logits.contiguous()}
    save_file(tensors | {"adapter_tensors": torch.tensor([adapter])}, path)


def check_in_fresh_process(run: RunFolder) -> str:
    """Load model/ as a user would, in a new process, and compare. Returns what it said; raises RuntimeError if it differs."""
    command = [sys.executable, "-m", "alpaca.reload_check", str(run.path)]
    root = Path(__file__).resolve().parent.parent
    alone = devices.environment_of_one()
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=3600, env=alone)
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    if done.returncode != 0:
        raise RuntimeError(
            f"what was saved in {run.model} is not what was trained: {said[-1] if said else 'no output'}"
        )
    return said[-1]
