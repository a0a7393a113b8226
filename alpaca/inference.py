"""A run folder, or weights from a folder or a hub, loaded to answer. Knows no trainer and no UI."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from alpaca import console, libraries, method, precision
from alpaca import model as base_model
from alpaca import tokenizer as tokenizers
from alpaca.config import ModelConfig, TrainConfig
from alpaca.config import load as load_config
from alpaca.decoding import Sampling
from alpaca.errors import UserError
from alpaca.loaded import Answer, Loaded
from alpaca.prompts import Prompt
from alpaca.results import RunFolder

if TYPE_CHECKING:
    import torch

__all__ = ["Answer", "Loaded", "Sampling", "load_run", "load_weights"]


def load_run(
    run: RunFolder,
    *,
    training_precision: bool = False,
    prompt: Prompt | None = None,
    device: str = "auto",
    quantize: str = "auto",
    merge: bool = False,
) -> Loaded:
    """The model of a finished run. `training_precision` keeps the dtypes of training (to compare logits).

    `quantize`: none, int8, nf4, or auto for the base as it was in training. `merge` puts LoRA into the weights where
    that is exact.
    """
    if not run.path.is_dir():
        raise UserError(f"run={run.path} is not a folder: it takes the run folder that train.py printed")
    if not run.config.is_file():
        raise UserError(
            f"run={run.path} has no config.yaml: it takes the run folder that train.py printed (weights go into model=)"
        )
    try:
        config = load_config(OmegaConf.to_container(OmegaConf.load(run.config), resolve=True))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{run.config} is damaged ({str(error).splitlines()[0]}): give the weights, model={run.model}"
        ) from None
    if not run.model.is_dir():
        status = run.read_result().get("status", "not finished")
        raise UserError(f"run={run.path} has no model/ yet ({status}): run its training again to go on")
    libraries.read("transformers.modeling_utils", *(["peft"] if config.method.train == "lora" else []))
    choice = precision.choose(config)
    tokenizer = tokenizers.load_tokenizer(str(run.model))
    tokenizers.check_special_tokens(tokenizer)
    dtype = choice.weights if training_precision else choice.compute
    small = (
        method.quantization(config.method, choice.compute)
        if quantize == "auto" and config.method.train == "lora"
        else quantization(quantize, dtype)
    )
    if config.method.train == "lora":
        source = run_base(config, run)
        model = _with_adapter(source, run.model, tokenizer, dtype, device, small, merge=merge)
    else:
        source = ModelConfig("run", path=str(run.model), trust_remote_code=config.model.trust_remote_code)
        model = _whole(source, dtype, device, small)
    return Loaded(model.eval(), tokenizer, prompt or Prompt.load(run.model), choice.name)


def quantization(name: str, compute: "torch.dtype") -> Any:
    """The settings of quantize=int8|nf4 for `from_pretrained`; None for auto and none."""
    import torch
    from transformers import BitsAndBytesConfig

    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if name == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute if torch.cuda.is_available() else torch.float32,
        )
    return None


def run_base(config: TrainConfig, run: RunFolder) -> ModelConfig:
    """Where the base of a run's adapter lies."""
    import dataclasses

    return config.model if config.model.path is not None else dataclasses.replace(config.model, path=str(run.base))


def load_weights(
    path: str,
    adapter: str | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    prompt: Prompt | None = None,
    device: str = "auto",
    quantize: str = "none",
    merge: bool = False,
) -> Loaded:
    """Weights straight from a folder or a hub, with an adapter or without; `quantize` and `merge` as for `load_run`."""
    import torch

    if Path(path, "metrics.jsonl").is_file() and not Path(path, "config.json").is_file():
        raise UserError(f"model={path} is a run folder: give it as run={path}")
    source = ModelConfig("infer", path=path, revision=revision, trust_remote_code=trust_remote_code)
    if not Path(path).is_dir():
        base_model.architecture(source)
    tokens_from = adapter if adapter and Path(adapter, "tokenizer_config.json").is_file() else path
    tokenizer = tokenizers.load_tokenizer(tokens_from, trust_remote_code=trust_remote_code)
    for notice in tokenizers.check_special_tokens(tokenizer):
        console.say(f"notice: {notice}")
    cuda = torch.cuda.is_available() and device != "cpu"
    dtype = torch.float32 if not cuda else torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if prompt is None:
        saved = [Path(p) for p in (adapter, path) if p and Path(p, "prompt.json").is_file()]
        if not saved:
            raise UserError(
                f"{adapter or path} carries no prompt: name the one it was tuned with, prompt=alpaca|chat|…"
            )
        prompt = Prompt.load(saved[0])
    small = quantization(quantize, dtype)
    if adapter:
        model = _with_adapter(source, Path(adapter), tokenizer, dtype, device, small, merge=merge)
    else:
        model = _whole(source, dtype, device, small)
        base_model.fit_vocabulary(model, tokenizer)
    name = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    return Loaded(model.eval(), tokenizer, prompt, name)


def _whole(source: ModelConfig, dtype: Any, device: str, quantization: Any) -> Any:
    """Weights without an adapter, where they are to run."""
    if quantization is None:
        return place(base_model.load(source, dtype), device)
    return base_model.load(source, dtype, quantization=quantization, device_map=_device_map(device))


def _device_map(device: str) -> dict[str, int] | None:
    """Quantised weights are made where they stay."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but there is no CUDA device here: use device=auto or cpu")
    return {"": 0} if torch.cuda.is_available() and device != "cpu" else None


def _with_adapter(
    source: ModelConfig,
    adapter: Path,
    tokenizer: Any,
    dtype: Any,
    device: str,
    quantization: Any = None,
    *,
    merge: bool = False,
) -> Any:
    from peft import PeftModel, prepare_model_for_kbit_training

    if not (adapter / "adapter_config.json").is_file():
        raise UserError(f"adapter={adapter} has no adapter_config.json: it takes a folder that PEFT saved")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise UserError(
            f"adapter={adapter} has no adapter_model.safetensors: copy it again (pickled adapters are not opened)"
        )
    device_map = _device_map(device) if quantization is not None else None
    model = base_model.load(source, dtype, quantization=quantization, device_map=device_map)
    base_model.fit_vocabulary(model, tokenizer)
    if quantization is not None:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    else:
        model = place(model, device)
    try:
        tuned = PeftModel.from_pretrained(model, str(adapter))
    except Exception as error:
        raise UserError(
            f"the adapter in {adapter} does not load on {source.path}: {str(error).splitlines()[0][:200]}"
        ) from error
    return merged(tuned.eval()) if merge and quantization is None else tuned


MERGE_TOLERANCE = 1e-5
"""Largest change of a logit by merging, relative to the largest logit."""


def merged(model: Any) -> Any:
    """LoRA put into the weights where that is exact: fp32, and the logits stay. Otherwise the model as it came."""
    import torch

    if model.dtype != torch.float32:  # in 16 bits the sum is rounded: W + BA is not what was trained
        return model
    size = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(64, device=model.device) * 7919 % size)[None]
    with torch.inference_mode():
        before = model(input_ids=ids, use_cache=False).logits
        model.merge_adapter()
        after = model(input_ids=ids, use_cache=False).logits
    if not (after - before).abs().max() <= MERGE_TOLERANCE * before.abs().max():
        model.unmerge_adapter()
        console.warn("merging the adapter changes the logits: it stays beside the weights, which is slower")
        return model
    return model.unload()


def place(model: Any, device: str) -> Any:
    """On the GPU where there is one and it is wanted."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but there is no CUDA device here: use device=auto or cpu")
    return model.to("cuda") if torch.cuda.is_available() and device != "cpu" else model
