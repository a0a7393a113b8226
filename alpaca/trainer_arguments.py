"""Names, types and choices of Hugging Face TrainingArguments, read from the installed source without importing it.

Importing transformers takes seconds; parsing the one file takes a tenth of one. Knows no torch.
"""

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Any, Literal

from alpaca import schema

OWNED = {
    "output_dir": "hydra.run.dir=DIR",
    "seed": "seed",
    "data_seed": "seed",
    "per_device_train_batch_size": "batch.per_device",
    "gradient_accumulation_steps": "batch.global_size",
    "auto_find_batch_size": "batch.per_device",
    "report_to": "tracker=none|wandb|tensorboard",
    "run_name": "tracker.run_name",
    "project": "tracker.project",
    "resume_from_checkpoint": "resume",
    "fsdp": "strategy=fsdp",
    "fsdp_config": "strategy=fsdp",
    "deepspeed": "strategy=deepspeed",
    "local_rank": "launch.processes",
    "bf16": "precision=bf16|fp32",
    "fp16": "precision=fp16|fp32",
}
"""Fields that another setting of this project decides, so that there is no second place for them."""

FIXED = {
    "remove_unused_columns": "the collator needs every column",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "load_best_model_at_end": "the run ends with its last weights; checkpoints/ keeps the newest ones",
    "save_only_model": "a checkpoint without optimiser state cannot be resumed",
    "ignore_data_skip": "a resumed run must see the rows that an uninterrupted one would",
    "push_to_hub": "a run does not publish; push the model/ folder when you have looked at it",
    "label_names": "labels come from loss_on",
    "include_num_input_tokens_seen": "metrics.jsonl counts tokens already",
    "disable_tqdm": "use the shell to silence stderr (2>/dev/null)",
    "prediction_loss_only": "evaluation reports the loss only",
    "batch_eval_metrics": "evaluation reports the loss only",
    "label_smoothing_factor": "the loss is plain cross-entropy",
    "enable_jit_checkpoint": "signals are handled here: the run saves and stops",
    "use_liger_kernel": "training.liger decides it",
    "neftune_noise_alpha": "not offered yet",
    "hub_token": "a key belongs into the environment (HF_TOKEN), never into a config",
}
"""Fields that this project decides itself, and why."""


DECIDED = ("gradient_checkpointing",)
"""Fields that also take `auto`: this project decides before the run starts."""


@functools.cache
def known() -> dict[str, Any]:
    """Field name -> type (Literal where it is one of an enumeration's values)."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None, "transformers is not installed"
    folder = Path(spec.origin).parent
    names: dict[str, Any] = {
        "int": int,
        "float": float,
        "str": str,
        "bool": bool,
        "dict": dict,
        "list": list,
        "Any": Any,
        "Literal": Literal,
    }
    result: dict[str, Any] = {}
    for file in ("trainer_utils.py", "training_args.py"):
        for node in ast.parse((folder / file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments":
                for item in node.body:
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        result[item.target.id] = _type(item.annotation, names)
                        if item.target.id in DECIDED:
                            result[item.target.id] = Literal[True, False, "auto"]
            elif isinstance(node, ast.ClassDef) and (values := _enumeration(node)):
                names[node.name] = Literal[tuple(values)]
    return result


def _enumeration(node: ast.ClassDef) -> list[str]:
    return [
        item.value.value
        for item in node.body
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)
    ]


def _type(annotation: ast.expr, names: dict[str, Any]) -> Any:
    """The annotation as a type; `Enumeration | str` keeps the enumeration alone, unknown names become Any."""
    if isinstance(annotation, ast.BinOp):
        left, right = _type(annotation.left, names), _type(annotation.right, names)
        if any(getattr(t, "__origin__", None) is Literal for t in (left, right)) and str in (left, right):
            return left if right is str else right
        return left | right if Any not in (left, right) else Any
    if isinstance(annotation, ast.Constant):
        return None if annotation.value is None else Any
    if isinstance(annotation, ast.Name):
        return names.get(annotation.id, Any)
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        arguments = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        kinds = tuple(a.value if isinstance(a, ast.Constant) else _type(a, names) for a in arguments)
        generic: Any = {"list": list, "dict": dict, "Literal": Literal}[annotation.value.id]
        return generic[kinds]
    return Any


def problems(trainer: dict[str, Any]) -> list[str]:
    """What is wrong with the `trainer:` mapping, each a line."""
    return [fault for name, value in trainer.items() for fault in problem(name, value)]


def problem(name: str, value: Any) -> list[str]:
    """What is wrong with one field of `trainer:`."""
    if name in OWNED:
        return [f"trainer.{name} is decided by another setting: use {OWNED[name]}"]
    if name in FIXED:
        return [f"trainer.{name} cannot be set: {FIXED[name]}"]
    if name not in known():
        renamed = {"warmup_ratio": "warmup_steps", "group_by_length": "train_sampling_strategy"}.get(name)
        hint = (
            f"; did you mean 'trainer.{renamed}'?"
            if renamed
            else schema.nearest(f"trainer.{name}", [f"trainer.{k}" for k in known()])
        )
        return [f"unknown key 'trainer.{name}'{hint} (allowed: the fields of transformers.TrainingArguments)"]
    faults: list[str] = []
    value = _yes_no(value, known()[name])
    schema.convert(value, known()[name], f"trainer.{name}", faults)
    low = {
        "learning_rate": 0,
        "num_train_epochs": 0,
        "warmup_steps": 0,
        "weight_decay": 0,
        "save_steps": 0,
        "eval_steps": 0,
        "logging_steps": 0,
        "save_total_limit": 1,
    }
    if not faults and name in low and isinstance(value, (int, float)) and (value < low[name] or value != value):
        faults.append(f"trainer.{name}={value} is not allowed: it takes a number of {low[name]} or more")
    return faults


def converted(trainer: dict[str, Any]) -> dict[str, Any]:
    """The mapping with values in their field's type (YAML reads 1e-4 as a text)."""
    return {n: schema.convert(_yes_no(v, known()[n]), known()[n], n, []) for n, v in trainer.items()}


def _yes_no(value: Any, kind: Any) -> Any:
    """YAML reads `no` as false; where a field takes the text `no`, that was meant."""
    return "no" if value is False and "no" in getattr(kind, "__args__", ()) else value
