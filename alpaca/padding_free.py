"""Batches without padding: sequences end to end in one row, attention kept within each. Knows no trainer.

The lengths travel in place of the attention mask: one with four dimensions goes from a model's entry to its attention
as it is, in every family built on transformers' attention interface, and through gradient checkpointing too.
"""

import re
from typing import Any

import torch

from alpaca import varlen

ATTENTION = "alpaca_sequences"
"""Name under which attention within sequences is registered with transformers."""
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "keep_window_size", "attention_window_size")
"""What transformers' configs call how far attention reaches back, mostly."""
_LIKE_A_WINDOW = re.compile("window|chunk|local|span|block|sliding")
"""Names of fields that may be a window by another name."""


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of host memory on the device; pinned, since a copy from pageable memory waits for the GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def sequence_mask(lengths: list[int], device: torch.device) -> torch.Tensor:
    """The lengths of the row's sequences, int32 (1, 1, 1, sequences): what a model is given as its attention mask."""
    mask = sent(torch.tensor(lengths, dtype=torch.int32), device).view(1, 1, 1, -1)
    mask.lengths = lengths  # type: ignore[attr-defined]  # at hand as well: reading them back would wait for a GPU
    return mask


def positions(lengths: list[int]) -> torch.Tensor:
    """0, 1, … in each sequence: int64 (1, tokens)."""
    return torch.cat([torch.arange(n) for n in lengths]).unsqueeze(0)


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention; with a `sequence_mask` each sequence by itself.

    query, key, value: (batch, heads, positions, width). Returns (batch, positions, heads, width).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as plain

    written_out = options.get("softcap") is not None or options.get("s_aux") is not None
    if attention_mask is None or attention_mask.dtype != torch.int32:
        attend = _written_out if written_out else plain
        return attend(module, query, key, value, attention_mask, **options)
    lengths: list[int] = getattr(attention_mask, "lengths", None) or attention_mask.flatten().tolist()
    dropout, window = options.get("dropout") or 0.0, options.get("sliding_window")
    within = window is None or max(lengths) <= window
    if not written_out and within and (found := varlen.find(query, dropout)) is not None:
        kernel, dtype = found
        q, k, v = (x[0].transpose(0, 1).to(dtype).contiguous() for x in (query, key, value))
        ends = torch.nn.functional.pad(attention_mask.flatten().cumsum(0, dtype=torch.int32), (1, 0))
        return kernel(q, k, v, ends, max(lengths), options.get("scaling")).unsqueeze(0), None
    drawn: Any = [None] * len(lengths)
    if dropout and query.device.type == "cpu":  # as padded rows draw it; the kernels of a GPU draw in ways of their own
        ones = query.new_ones(len(lengths), query.shape[1], max(lengths), max(lengths))
        drawn, written_out = torch.nn.functional.dropout(ones, dropout), True
    attend = _written_out if written_out else plain
    result = []
    for q, k, v, kept in zip(
        query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), drawn, strict=True
    ):
        more = options if kept is None else options | {"kept": kept[:, : q.shape[2], : q.shape[2]]}
        result.append(attend(module, q, k, v, _window_mask(q, window), **more)[0])
    return torch.cat(result, 1), None


def _window_mask(query: torch.Tensor, window: int | None) -> torch.Tensor | None:
    """Where the positions of a sequence longer than the window attend to: themselves and the `window` - 1 before."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)


def _written_out(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    kept: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention that SDPA has no kernel for: scores capped at `softcap`, sinks `s_aux` (heads,) beside them. Else as it.

    mask: where to attend, as booleans, or what to add to the scores; none: to all before, where positions are several.
    kept: dropout that was drawn before, what each share is multiplied with, (heads, positions, positions).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is None and query.shape[2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        least = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, least) if mask.dtype == torch.bool else scores + mask
    if s_aux is not None:
        sinks = s_aux.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks], -1)
    shares = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)[..., : key.shape[2]]
    shares = torch.nn.functional.dropout(shares, dropout, module.training) if kept is None else shares * kept
    return (shares @ value).transpose(1, 2).contiguous(), None


def can_attend(model: Any, max_length: int, tried: int = 0) -> bool:
    """Whether `use_attention` may compute what the model's own attention does, sequences up to `max_length` tokens.

    It stands in for transformers' SDPA, and for the eager attention of models that SDPA does not suit (capped scores).
    A window or chunk narrower than `max_length` must be narrower than a sequence that is `tried`: it keeps one that the
    model names to its attention, and no other.
    """
    config = model.config
    stands_in_for = ["sdpa", ATTENTION] + ["eager"] * (not getattr(model, "_supports_sdpa", True))
    if getattr(config, "_attn_implementation", None) not in stands_in_for:
        return False
    if not getattr(model, "_can_set_attn_implementation", lambda: False)():
        return False
    return all(isinstance(w, int) and (w >= max_length or w < tried) for w in _windows(config))


def reach(model: Any, max_length: int) -> int:
    """The widest of what may be a window of the model's attention; 0 where no sequence of `max_length` is longer.

    Found by name, so it may be another number: all that comes of it is the length of the rows that are tried.
    """
    fields = {name: value for config in _configs(model.config) for name, value in vars(config).items()}
    numbers = (v for name, v in fields.items() if _LIKE_A_WINDOW.search(name) and type(v) is int)
    return max((v for v in numbers if 0 < v < max_length), default=0)


def _windows(config: Any) -> list[Any]:
    """Windows and chunks of attention that a config names, those of the text model within it included."""
    return [w for c in _configs(config) for name in _WINDOWS if (w := getattr(c, name, None)) is not None]


def _configs(config: Any) -> tuple[Any, Any]:
    return config, config.get_text_config(decoder=True)


def use_attention(model: Any) -> None:
    """Let the model attend within sequences where it is given their lengths, and as before where it is not."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
