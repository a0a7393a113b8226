"""The typed schema of export.py. Knows no torch and no Hugging Face library."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alpaca import schema
from alpaca.config import raise_all


@dataclass
class ExportConfig:
    """What is written from a finished run, or from weights and an adapter."""

    run: str | None = None
    """Run folder of a finished training."""
    model: str | None = None
    """Local folder or hub id of weights, instead of `run`."""
    adapter: str | None = None
    """LoRA adapter on `model`."""
    format: Literal["hf", "adapter", "gguf", "diff"] = "hf"
    """hf: merged weights; adapter: for PEFT; gguf: for llama.cpp; diff: the difference to `base`."""
    output: str | None = None
    """Folder (gguf: file) to write; null: exports/… in the run folder."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "q8_0"] = "auto"
    """auto: as the weights are stored (gguf: float16). q8_0 is 8 bits in blocks of 32, gguf only."""
    vocabulary: Literal["keep", "trim"] = "keep"
    """trim: without the rows that training added to the base's vocabulary (a padding token)."""
    base: str | None = None
    """diff and recover: folder or hub id of the base; null: the run's own."""
    recover: str | None = None
    """Folder that format=diff wrote: give back the weights with `base` and `output`."""
    verify: Literal["auto", "whole", "streamed", "none"] = "auto"
    """How what was written is compared with the run, in fresh processes. whole: loaded, logits and greedy tokens, with
    memory for the model in float32. streamed: layer by layer, logits and every tensor. auto: whole where that fits."""
    push: str | None = None
    """Hub repository (private) to which a verified export is uploaded; the key comes from $HF_TOKEN or the login."""
    trust_remote_code: bool = False


def load(data: Any) -> ExportConfig:
    """A validated config. Raises UserError with every fault found."""
    faults: list[str] = []
    config: ExportConfig = schema.build(ExportConfig, data, "", faults)
    raise_all(faults or problems(config))
    return config


def problems(config: ExportConfig) -> list[str]:
    """What is wrong with well-typed values, each a line."""
    if config.recover is not None:
        return _recover_problems(config)
    faults = []
    if (config.run is None) == (config.model is None):
        faults.append("give either run=RUN_FOLDER or model=DIR_OR_HUB_ID (or recover=DIFF_FOLDER base=BASE)")
    if config.adapter is not None and config.model is None:
        faults.append("adapter goes with model=BASE; a run folder knows its adapter")
    if config.model is not None and config.output is None:
        faults.append("output is missing: say where to write, output=DIR (only a run folder has its own place)")
    if config.dtype == "q8_0" and config.format != "gguf":
        faults.append("dtype=q8_0 goes with format=gguf: use float32, bfloat16 or float16")
    if config.base is not None and config.format != "diff":
        faults.append("base goes with format=diff or recover=DIFF_FOLDER")
    if config.format == "diff" and config.base is None and config.adapter is None and config.model is not None:
        faults.append("base is missing: format=diff takes the difference to base=DIR_OR_HUB_ID")
    if config.vocabulary == "trim" and config.format == "adapter":
        faults.append("vocabulary=trim goes with merged weights: an adapter holds no vocabulary")
    return faults + _output_problems(config)


def _recover_problems(config: ExportConfig) -> list[str]:
    faults = []
    if config.base is None:
        faults.append("base is missing: recover=DIFF_FOLDER takes base=DIR_OR_HUB_ID")
    if config.output is None:
        faults.append("output is missing: say where the weights go, output=DIR")
    if config.run or config.model:
        faults.append("recover stands alone with base and output: leave run and model out")
    if not (Path(config.recover or "") / "diff.json").is_file():
        faults.append(f"recover={config.recover} has no diff.json: it takes a folder that format=diff wrote")
    return faults + _output_problems(config)


def _output_problems(config: ExportConfig) -> list[str]:
    faults = []
    if config.output is not None and Path(config.output).exists():
        faults.append(f"output={config.output} is there already: give another, or remove it")
    if config.output is not None and config.format == "gguf" and not config.output.endswith(".gguf"):
        faults.append(f"output={config.output} is not allowed: format=gguf takes a file that ends in .gguf")
    return faults
