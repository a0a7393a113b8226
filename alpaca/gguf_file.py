"""One GGUF file for llama.cpp from a LLaMA-family model: weights tensor by tensor, tokenizer and prompt."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.gguf_vocabulary import chat_template, starts_with_bos, vocabulary

if TYPE_CHECKING:
    import numpy as np

    from alpaca.export import Subject

FAMILIES = ("llama", "mistral")
"""Values of model_type that llama.cpp runs as its architecture `llama`."""
ROPES = ("default", "linear", "llama3")
"""Values of rope_type whose angles do not depend on the length of the text."""
_TYPES = {"auto": "F16", "float16": "F16", "float32": "F32", "bfloat16": "BF16", "q8_0": "Q8_0"}


def write(subject: "Subject", path: Path, dtype: str) -> None:
    """Write the file. Raises UserError for a model, rope or tokenizer that llama.cpp would run otherwise."""
    import logging

    import gguf
    from tqdm.auto import tqdm

    logging.getLogger("gguf").setLevel(logging.WARNING)
    source = subject.source
    check(source.config)
    kind = gguf.GGMLQuantizationType[_TYPES[dtype]]
    writer = gguf.GGUFWriter(path, "llama")
    _architecture(writer, source.config, source.rows, kind)
    _tokenizer(writer, subject)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, source.config.num_hidden_layers)
    order = [name for portion in source.shards() for name in portion]
    stretched = rope_factors(source.config)
    if stretched is not None:
        writer.add_tensor_info("rope_freqs.weight", stretched.shape, stretched.dtype, stretched.nbytes)
    for name in order:  # GGUF lists every tensor before the first one's data
        data, stored = _convert(name, source.tensor(name), source.config, kind)
        writer.add_tensor_info(_named(names, name), data.shape, data.dtype, data.nbytes, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if stretched is not None:
        writer.write_tensor_data(stretched)
    for name in tqdm(order, unit="tensor", disable=None, leave=False):
        writer.write_tensor_data(_convert(name, source.tensor(name), source.config, kind)[0])
    writer.close()
    console.say(f"GGUF of {len(order)} tensors, {kind.name}, {path.stat().st_size / 1e6:,.1f} MB")


def check(config: Any) -> None:
    """Raise UserError for what the architecture `llama` of llama.cpp does not do."""
    if config.model_type not in FAMILIES:
        raise UserError(
            f"format=gguf takes the families {', '.join(FAMILIES)}: this is {config.model_type}; use format=hf"
        )
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind not in ROPES:
        raise UserError(f"format=gguf takes rope_type={'|'.join(ROPES)}: this is {kind}; use format=hf")
    if getattr(config, "hidden_act", "silu") != "silu" or getattr(config, "sliding_window", None):
        raise UserError("format=gguf takes hidden_act=silu and no sliding window: use format=hf")


def rope_factors(config: Any) -> "np.ndarray | None":
    """float32 [pairs of a head]: by how much each plain frequency of rope is divided; None where it is plain."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    import torch

    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    return (plain / ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))[0]).numpy()


def _architecture(writer: Any, config: Any, rows: int, kind: Any) -> None:
    import gguf

    heads = config.num_attention_heads
    writer.add_name(getattr(config, "name_or_path", "") or "model")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(rows)
    types = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}
    writer.add_file_type(gguf.LlamaFileType[types[kind.name]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _tokenizer(writer: Any, subject: "Subject") -> None:
    tokenizer, rows = subject.tokenizer, subject.source.rows
    found = vocabulary(tokenizer, rows)
    writer.add_tokenizer_model(found.kind)
    writer.add_tokenizer_pre(found.split)
    writer.add_token_list(found.pieces)
    writer.add_token_types(found.types)
    if found.scores is not None:
        writer.add_token_scores(found.scores)
        writer.add_add_space_prefix(found.space_in_front)
    if found.merges is not None:
        writer.add_token_merges(found.merges)
    for name in ("bos", "eos", "pad", "unk"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None and number < rows:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(starts_with_bos(tokenizer))
    writer.add_add_eos_token(False)
    if template := chat_template(subject.prompt, tokenizer):
        writer.add_chat_template(template)
    if subject.prompt is not None:
        writer.add_string("alpaca.prompt", json.dumps(vars(subject.prompt), ensure_ascii=False))


def _named(names: Any, name: str) -> str:
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise UserError(f"format=gguf: {name} has no place in llama.cpp's architecture llama: use format=hf")
    return found


def _convert(name: str, tensor: Any, config: Any, kind: Any) -> "tuple[np.ndarray, Any]":
    """The array as llama.cpp stores it, and its type: vectors stay in float32, the rest in `kind` where it fits."""
    import gguf
    import numpy as np

    data = tensor.float().numpy()
    heads = config.num_attention_heads
    if name.endswith(("q_proj.weight", "q_proj.bias")):
        data = _interleaved(data, heads)
    elif name.endswith(("k_proj.weight", "k_proj.bias")):
        data = _interleaved(data, getattr(config, "num_key_value_heads", None) or heads)
    if data.ndim == 1:
        return data.astype(np.float32), gguf.GGMLQuantizationType.F32
    if kind == gguf.GGMLQuantizationType.Q8_0 and data.shape[-1] % 32:
        kind = gguf.GGMLQuantizationType.F16  # its blocks are 32 long
    return gguf.quants.quantize(np.ascontiguousarray(data), kind), kind


def _interleaved(data: "np.ndarray", heads: int) -> "np.ndarray":
    """Rows of each head from halves (as transformers rotates them) to pairs (as llama.cpp does)."""
    return data.reshape(heads, 2, data.shape[0] // heads // 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
