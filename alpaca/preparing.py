"""What a run is made of before there is a model: prompt, tokenizer, tokenised rows, and the arithmetic of its batches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca import batch, console, data, devices, rows, trainer_arguments
from alpaca import model as base_model
from alpaca import tokenizer as tokenizers
from alpaca.config import DataConfig, TrainConfig
from alpaca.errors import UserError
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
