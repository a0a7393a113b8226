"""How far is a config from a recipe as it was published? The published settings stand here, apart from conf/.

Sources: tatsu-lab/stanford_alpaca (README, train.py), tloen/alpaca-lora (its two adapters of March 2023),
artidoro/qlora and arXiv 2305.14314. All three left accumulation to the Trainer of transformers in 2023 (QLoRA's
requirements.txt pins 4.31), which until 4.46 averaged the loss per micro-batch (huggingface.co/blog/gradient_accumulation).
"""

import contextlib
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca import schema
from alpaca.config import ModelConfig, TrainConfig
from alpaca.config import load as load_config
from alpaca.errors import UserError, first_line

ALPACA_52K = "2eddafc6b977608d778aaab8dfc7e50e547b3af9826dfb9e909d9fc362e4a419"
_BELOW = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."
_WITH_INPUT = (
    f"{_BELOW}, paired with an input that provides further context. {_REQUEST}\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
_WITHOUT_INPUT = f"{_BELOW}. {_REQUEST}\n\n### Instruction:\n{{instruction}}\n\n### Response:"
NF4, FP4, SIXTEEN, INT8 = "nf4, double quantisation", "fp4", "not quantised", "int8"


def _common(parameters: int, behind: str) -> dict[str, Any]:
    return {
        "parameters of the base": parameters,
        "prompt with input": _WITH_INPUT + behind,
        "prompt without input": _WITHOUT_INPUT + behind,
        "rows": "Alpaca-52k, whole",
        "average of the loss": "microbatch",
        "weight decay": 0.0,
        "precision": "16 bit",
    }


def _stanford(parameters: int, rate: float, epochs: int) -> dict[str, Any]:
    return _common(parameters, "") | {
        "weights trained": "all",
        "base kept": SIXTEEN,
        "sequences a step": 128,
        "learning rate": rate,
        "schedule": "cosine",
        "warm-up": 0.03,
        "length of training": f"{epochs} epochs",
        "longest example": "512",
        "loss on": "response",
        "rows held out": 0,
        "gradient clip": 1.0,
        "order of the rows": "random",
    }


def _alpaca_lora(r: int, targets: list[str], epochs: int, longest: int, order: str) -> dict[str, Any]:
    return _common(6_738_415_616, "\n") | {
        "weights trained": "lora",
        "base kept": INT8,
        "LoRA": f"r {r}, alpha 16, dropout 0.05, on {', '.join(targets)}",
        "sequences a step": 128,
        "learning rate": 3e-4,
        "schedule": "linear",
        "warm-up": 100,
        "length of training": f"{epochs} epochs",
        "longest example": str(longest),
        "loss on": "all",
        "rows held out": 2000,
        "gradient clip": 1.0,
        "order of the rows": order,
    }


def _qlora(parameters: int, batch: int, rate: float, steps: int, dropout: float) -> dict[str, Any]:
    return _common(parameters, " ") | {
        "weights trained": "lora",
        "base kept": NF4,
        "LoRA": f"r 64, alpha 16, dropout {dropout:g}, on all-linear",
        "sequences a step": batch,
        "learning rate": rate,
        "schedule": "constant",
        "warm-up": 0,
        "length of training": f"{steps} steps",
        "longest example": "384 + 128",
        "loss on": "response",
        "rows held out": 0,
        "gradient clip": 0.3,
        "beta2": 0.999,
        "order of the rows": "group_by_length",
    }


RECIPES: dict[str, dict[str, Any]] = {
    "stanford_alpaca_7b": _stanford(6_738_415_616, 2e-5, 3),
    "stanford_alpaca_13b": _stanford(13_015_864_320, 1e-5, 5),
    "stanford_alpaca_opt6.7b": _stanford(6_658_473_984, 2e-5, 3),
    "alpaca_lora_original": _alpaca_lora(8, ["q_proj", "v_proj"], 3, 256, "random"),
    "alpaca_lora_official": _alpaca_lora(16, ["k_proj", "o_proj", "q_proj", "v_proj"], 10, 512, "group_by_length"),
    "qlora_alpaca_7b": _qlora(6_738_415_616, 16, 2e-4, 10_000, 0.1),
    "qlora_alpaca_13b": _qlora(13_015_864_320, 16, 2e-4, 10_000, 0.1),
    "qlora_alpaca_33b": _qlora(32_528_943_616, 32, 1e-4, 5_000, 0.05),
    "qlora_alpaca_65b": _qlora(65_285_660_672, 64, 1e-4, 2_500, 0.05),
}
"""Recipe (named as in conf/experiment/) -> aspect -> what was published. Batch and steps of QLoRA 33B and 65B are
unconfirmed."""


_LONG = 80
"""Texts beyond so many characters are not shown whole."""


@dataclass(frozen=True)
class Difference:
    """An aspect in which a config is not the recipe."""

    aspect: str
    published: Any
    here: Any


def aspects(config: TrainConfig) -> dict[str, Any]:
    """A config in the words of RECIPES."""
    trainer, method, data = config.trainer, config.method, config.data
    steps, epochs = trainer.get("max_steps", -1), trainer.get("num_train_epochs", 3)
    lengths = (config.source_max_length, config.target_max_length)
    result = {
        "parameters of the base": parameters(config),
        "weights trained": method.train,
        "base kept": _kept(config),
        "LoRA": _lora(config),
        "sequences a step": config.batch.global_size,
        "learning rate": _number(trainer.get("learning_rate")),
        "schedule": trainer.get("lr_scheduler_type"),
        "warm-up": _number(trainer.get("warmup_steps", 0)),
        "length of training": f"{steps} steps" if steps > 0 else f"{float(epochs):g} epochs",
        "longest example": f"{lengths[0]} + {lengths[1]}" if lengths[0] else str(config.max_length),
        "loss on": config.loss_on,
        "average of the loss": config.loss_average,
        "rows": _rows(config),
        "rows held out": data.validation or 0,
        "prompt with input": config.prompt.with_input if config.prompt.kind == "text" else "chat template",
        "prompt without input": config.prompt.without_input if config.prompt.kind == "text" else "chat template",
        "weight decay": _number(trainer.get("weight_decay", 0.0)),
        "gradient clip": _number(trainer.get("max_grad_norm", 1.0)),
        "beta2": _number(trainer.get("adam_beta2", 0.999)),
        "order of the rows": trainer.get("train_sampling_strategy", "random"),
        "precision": "fp32" if config.precision == "fp32" else "16 bit",
    }
    return {k: v for k, v in result.items() if v is not None}


def parameters(config: TrainConfig) -> int | None:
    """Parameters of the base, counted on the meta device as a dry run does; None where its shape is out of reach."""
    with contextlib.suppress(UserError):
        return _count(json.dumps(schema.to_plain(config.model)))
    return None


@functools.cache
def _count(model_config: str) -> int:
    from alpaca import method, model

    return method.count(model.shape(model.architecture(ModelConfig(**json.loads(model_config)), prefer_yaml=True)))[1]


def _kept(config: TrainConfig) -> str:
    settings = config.method.quantize
    if settings is None:
        return SIXTEEN
    return INT8 if settings.bits == 8 else settings.type + (", double quantisation" if settings.double else "")


def _lora(config: TrainConfig) -> str | None:
    lora = config.method.lora
    if lora is None:
        return None
    targets = lora.targets if isinstance(lora.targets, str) else ", ".join(sorted(lora.targets))
    extra = "".join(f", {name}" for name in ("rslora", "dora") if getattr(lora, name))
    return f"r {lora.r}, alpha {lora.alpha:g}, dropout {lora.dropout:g}, on {targets}{extra}"


def _number(value: Any) -> Any:
    try:
        return float(value)  # YAML reads 2e-5 as a text
    except (TypeError, ValueError):
        return value


def _rows(config: TrainConfig) -> str:
    """Which rows a config trains on."""
    import hashlib

    data = config.data
    known = data.sha256 if data.verify else None
    if known is None and data.path and Path(data.path).is_file():
        with open(data.path, "rb") as file:
            known = hashlib.file_digest(file, "sha256").hexdigest()
    whole = data.limit is None and data.empty_output == "keep" and data.shuffle_seed is None
    if known == ALPACA_52K:
        return "Alpaca-52k, " + ("whole" if whole else "a part, or in another order")
    return f"{data.name} ({data.path or data.hub})"


def differences(config: TrainConfig, recipe: str, **instead: Any) -> list[Difference]:
    """Where a config is not the published recipe; `instead` replaces published aspects (a variant of a recipe)."""
    return compare(aspects(config), recipe, instead)


def compare(here: dict[str, Any], recipe: str, instead: dict[str, Any] | None = None) -> list[Difference]:
    """As `differences`, on aspects that are known already."""
    published = RECIPES[recipe] | {k.replace("_", " "): v for k, v in (instead or {}).items()}
    return [
        Difference(name, published.get(name, "none"), here.get(name, "unknown"))
        for name in dict.fromkeys([*published, *(["LoRA"] if "LoRA" in here else [])])
        if published.get(name, "none") != here.get(name, "unknown")
    ]


def nearest(here: dict[str, Any]) -> str:
    """The recipe with the fewest differences."""
    return min(RECIPES, key=lambda name: len(compare(here, name)))


def pinned(name: str, *overrides: str) -> TrainConfig:
    """The config of conf/experiment/NAME."""
    return composed(f"experiment={name}", *overrides)


def composed(*overrides: str) -> TrainConfig:
    """The validated config of `python train.py OVERRIDES`, also from within another entrypoint."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from alpaca import cli

    cli.register("train", TrainConfig)
    running = GlobalHydra.instance().is_initialized()
    place: Any = (
        contextlib.nullcontext()
        if running
        else hydra.initialize_config_dir(version_base="1.3", config_dir=str(cli.CONF))
    )
    with place:
        return load_config(OmegaConf.to_container(hydra.compose("train", list(overrides)), resolve=True))


def read_config(source: str) -> TrainConfig:
    """A config from a run folder, a resolved YAML file, or a name in conf/experiment/. Raises UserError."""
    from omegaconf import OmegaConf

    path = Path(source)
    if path.is_dir():
        path = path / "config.yaml"
    if path.is_file():
        try:
            data = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        except Exception as error:
            raise UserError(f"config={path} cannot be read ({first_line(error)}): give a run's config.yaml") from None
        return load_config(data)
    if (_experiments() / f"{source}.yaml").is_file():
        return pinned(source)
    raise UserError(
        f"config={source} is not there: give a run folder, its config.yaml, or one of {', '.join(sorted(RECIPES))}"
    )


def _experiments() -> Path:
    from alpaca.cli import CONF

    return CONF / "experiment"


def recipe_diff(config: Any, run_dir: Path) -> None:
    """task=recipe_diff: print each aspect of the recipe and what the config has; a page lies in `run_dir`."""
    from alpaca.evaluation import outcome
    from alpaca.page import Page

    assert config.config is not None
    here = aspects(read_config(config.config))
    recipe = config.recipe or nearest(here)
    found = {d.aspect: d for d in compare(here, recipe)}
    names = list(dict.fromkeys([*RECIPES[recipe], *found]))
    shown = {n: _both(RECIPES[recipe].get(n, "none"), here.get(n, "unknown")) for n in names}
    rows = [("differs" if n in found else "same", n, *shown[n]) for n in names]
    rows.sort(key=lambda row: row[0] == "same")
    title = f"{config.config} against {recipe}: {len(found)} of {len(rows)} aspects differ"
    outcome.print_table(rows, ("", "aspect", recipe, "here"))
    page = Page(title)
    page.table(rows, ("", "aspect", recipe, "here"))
    settings = {"config": config.config, "recipe": recipe, "named": config.recipe is not None}
    outcome.write(run_dir, "recipe_diff", settings, {"differences": list(map(vars, found.values()))}, page)
    outcome.done(run_dir, title + ("" if config.recipe else " (the nearest recipe; recipe=NAME for another)"))


def _both(published: Any, here: Any) -> tuple[str, str]:
    """Two values to look at; of long texts what stands around the first character that differs."""
    if not (isinstance(published, str) and isinstance(here, str) and max(len(published), len(here)) > _LONG):
        return _show(published), _show(here)
    if published == here:
        return (f"{len(here)} characters",) * 2
    at = next((i for i, (a, b) in enumerate(zip(published, here, strict=False)) if a != b), min(len(published), len(here)))  # fmt: skip
    return tuple(f"at {at}: …{text[max(0, at - 15) : at + 15]!r}" for text in (published, here))  # type: ignore[return-value]


def _show(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else f"{value:g}"
