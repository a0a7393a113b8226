"""The base model: made on the spot, loaded from a folder or a hub, or only its shape. Knows no data."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca import console
from alpaca.config import ModelConfig
from alpaca.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def architecture(config: ModelConfig, *, prefer_yaml: bool = False) -> "PretrainedConfig":
    """The Hugging Face config of the base: from its folder, else from conf/ when `prefer_yaml`, else from the hub."""
    from transformers import AutoConfig

    local = config.path is not None and Path(config.path).is_dir()
    if config.architecture is not None and (config.path is None or prefer_yaml and not local):
        return from_yaml(config.architecture)
    assert config.path is not None
    if local:
        check_folder(Path(config.path))
    try:
        return AutoConfig.from_pretrained(
            config.path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:
        raise UserError(_unloadable(config, error)) from error


def from_yaml(fields: dict[str, Any]) -> "PretrainedConfig":
    """A Hugging Face config from `model.architecture`. Raises UserError for an unknown model type or field value."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = fields["model_type"]
    if kind not in CONFIG_MAPPING:
        raise UserError(f"model.architecture.model_type={kind} is not known to transformers: such as llama, opt, qwen3")
    others = {k: v for k, v in fields.items() if k != "model_type"}
    known = AutoConfig.for_model(kind)
    for name in others:
        if not hasattr(known, name):
            raise UserError(f"model.architecture.{name} is not a field of {type(known).__name__}")
    try:
        config = AutoConfig.for_model(kind, **others)
    except Exception as error:
        raise UserError(f"model.architecture makes no {kind} config: {_first_line(error)}") from error
    _check_heads(config)
    return config


def _check_heads(config: "PretrainedConfig") -> None:
    """Raise UserError where the heads do not divide what they share out."""
    hidden, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    if not hidden or not heads:
        return
    shared = getattr(config, "num_key_value_heads", None) or heads
    if heads % shared:
        raise UserError(
            f"model.architecture.num_attention_heads={heads} must be a multiple of num_key_value_heads={shared}"
        )
    if hidden % heads and getattr(config, "head_dim", None) in (None, hidden // heads):
        raise UserError(f"model.architecture.hidden_size={hidden} must be a multiple of num_attention_heads={heads}")


def check_folder(folder: Path) -> None:
    """A folder that can be a model. Raises UserError saying what is missing, damaged or unsafe."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "; a run folder goes into infer.py run=DIR" if (folder / "metrics.jsonl").is_file() else ""
        adapter = " (it holds a LoRA adapter: give its base)" if (folder / "adapter_config.json").is_file() else ""
        raise UserError(
            f"{folder} has no config.json: model.path takes a Hugging Face model folder{adapter}{hint}"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json is damaged ({_first_line(error)}): copy the model again") from None
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise UserError(f"{folder}/config.json names no model_type: it is not a Hugging Face model config")


def check_weights(folder: Path) -> None:
    """Safetensors that are all there. Raises UserError; a pickle is refused with the way to convert it."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{index} is damaged: copy the model again") from None
        if missing := [s for s in shards if not (folder / s).is_file()]:
            raise UserError(
                f"{folder} lacks {len(missing)} of {len(shards)} weight files ({missing[0]}, …): copy them again"
            )
    elif not (folder / "model.safetensors").is_file():
        if any((folder / name).is_file() for name in PICKLES):
            raise UserError(
                f"{folder} holds pickled weights (pytorch_model.bin), which can run code when opened: "
                f"convert them once with  python -m alpaca.convert {folder} NEW_FOLDER  and give model.path=NEW_FOLDER"
            )
        raise UserError(
            f"{folder} has no model.safetensors: model.path takes a folder with config, weights and tokenizer"
        )


def load(
    config: ModelConfig,
    dtype: "torch.dtype",
    *,
    quantization: Any = None,
    device_map: Any = None,
) -> "PreTrainedModel":
    """The base with its weights, every one of them found in the files. `dtype` is that of the weights in memory."""
    from transformers import AutoModelForCausalLM

    assert config.path is not None
    if Path(config.path).is_dir():
        check_folder(Path(config.path))
        check_weights(Path(config.path))
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            config.path,
            revision=config.revision,
            dtype=dtype,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            quantization_config=quantization,
            device_map=device_map,
            attn_implementation=None if config.attention == "auto" else config.attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, in one line
        )
    except Exception as error:
        raise UserError(_unloadable(config, error)) from error
    model, info = loaded
    if info["missing_keys"] or info.get("mismatched_keys"):
        names = sorted(info["missing_keys"]) + sorted(str(k) for k in info.get("mismatched_keys", ()))
        raise UserError(
            f"{config.path} lacks {len(names)} weights of its architecture ({names[0]}, …): "
            "they would start random; copy the model again"
        )
    if info["unexpected_keys"]:
        names = sorted(info["unexpected_keys"])
        console.warn(f"{config.path}: {len(names)} weights are not part of the architecture ({names[0]}, …)")
    _keep_packing(model)
    return model


def _keep_packing(model: Any) -> None:
    """Keep 4-bit weights as they were loaded.

    On a CPU with AVX512-BF16, bitsandbytes packs them anew at the first forward pass in evaluation mode: training that
    goes on after it gives other losses, and a width that is no multiple of 64 does not fit at all.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def make(fields: dict[str, Any], tokenizer: "PreTrainedTokenizerBase", attention: str = "auto") -> "PreTrainedModel":
    """A model with random fp32 weights whose vocabulary and special tokens are the tokenizer's."""
    from transformers import AutoModelForCausalLM

    config = from_yaml(
        fields
        | {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=None if attention == "auto" else attention)


def shape(config: "PretrainedConfig", attention: str = "auto", *, trust_remote_code: bool = False) -> "PreTrainedModel":
    """The model on the meta device: every parameter's shape and no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            config,
            attn_implementation=None if attention == "auto" else attention,
            trust_remote_code=trust_remote_code,
        )


def fit_vocabulary(model: Any, tokenizer: "PreTrainedTokenizerBase") -> int:
    """Grow both embeddings to the tokenizer; new rows get the mean of the old ones (as Stanford Alpaca). Returns how many."""
    import torch

    old = model.get_input_embeddings().weight.shape[0]
    new = len(tokenizer) - old
    if new <= 0:
        return 0
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None and not layer.weight.is_meta:
                layer.weight[old:] = layer.weight[:old].mean(dim=0, keepdim=True)
    return new


def align_special_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """The model's config and generation settings take the tokenizer's bos, eos and pad."""
    for config in (model.config, model.generation_config):
        for name in ("bos_token_id", "pad_token_id"):
            setattr(config, name, getattr(tokenizer, name))
    model.config.eos_token_id = tokenizer.eos_token_id
    kept = model.generation_config.eos_token_id
    if isinstance(kept, list) and tokenizer.eos_token_id in kept:
        return  # instruct models name several tokens that end an answer
    model.generation_config.eos_token_id = tokenizer.eos_token_id


def _unloadable(config: ModelConfig, error: Exception) -> str:
    path = config.path
    if path is not None and Path(path).is_dir():
        return f"{path} cannot be loaded: {_first_line(error)}"
    if path is not None and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        return f"model.path={path} is not a folder: it takes a local folder or a hub id such as {_example()}"
    text = str(error)
    if "does not appear to have a file named" in text and "safetensors" in text:
        return (
            f"{path} offers no safetensors on the hub, and pickled weights can run code when opened: convert them once "
            f"with  python -m alpaca.convert {path} NEW_FOLDER  and give model.path=NEW_FOLDER"
        )
    return (
        f"model.path={path} cannot be had from the hub ({_first_line(error)}): "
        "check the id and the network, or give a local folder, model.path=DIR"
    )


def _example() -> str:
    return "huggyllama/llama-7b"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (" ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else type(error).__name__)[:300]
