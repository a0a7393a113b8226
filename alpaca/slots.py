"""Keys and values of rows that are decoded together, in buffers with room to spare.

transformers' own growing cache copies everything for each token and each row that leaves: more than half of the time of
a small model on a CPU. Here a token is written in place, and so is a row that takes another's place.
"""

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

SPARE = 64
"""Columns (tokens to come) that a buffer has beyond what it holds when it is made."""


class Unsupported(Exception):
    """This model keeps its state in another way than one key and value a token and layer."""


class SlotLayer(DynamicLayer):
    """One layer: `keys` and `values` [rows, heads, tokens, size] are the columns `start:stop` of wider buffers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._buffers: list[torch.Tensor] = []
        self._start = self._stop = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the columns of new tokens behind the others, and return all of them."""
        count = key_states.shape[2]
        if self._stop + count > self._buffers[0].shape[2]:
            self._rebuild(None, None, self._stop - self._start)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._stop : self._stop + count] = new
        self._stop += count
        return self._show()

    def arrange(self, keep: torch.Tensor | None, new: Any, width: int) -> None:
        """The rows `keep` (None: all) and behind them `new` ones; `width` columns, aligned at the right, are needed."""
        self._rebuild(keep, new, width)
        self._show()

    def replace(self, slots: torch.Tensor, new: Any, width: int) -> None:
        """Put new rows, no wider than `width`, where rows were that ended."""
        if self._stop < width:
            self._rebuild(None, None, width)
        self._start = self._stop - width
        for buffer, rows in zip(self._buffers, (new.keys, new.values), strict=True):
            buffer[slots, :, self._stop - rows.shape[2] : self._stop] = rows
        self._show()

    def _rebuild(self, keep: torch.Tensor | None, new: Any, width: int) -> None:
        """Buffers of the wanted rows and columns with room for more; masked columns hold zeros or old numbers."""
        held = [b[:, :, self._start : self._stop][:, :, -width:] for b in self._buffers]
        if keep is not None:
            held = [h[keep] for h in held]
        added = [t for t in (new.keys, new.values) if t is not None] if new is not None else []
        fresh = []
        for i in range(2):
            parts = [group[i] for group in (held, added) if group]
            rows = sum(p.shape[0] for p in parts)
            buffer = parts[0].new_zeros(rows, parts[0].shape[1], width + SPARE, parts[0].shape[3])
            at = 0
            for part in parts:
                buffer[at : at + part.shape[0], :, width - part.shape[2] : width] = part
                at += part.shape[0]
            fresh.append(buffer)
        self._buffers, self._start, self._stop = fresh, 0, width
        self.is_initialized, self.dtype, self.device = True, fresh[0].dtype, fresh[0].device

    def _show(self) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (b[:, :, self._start : self._stop] for b in self._buffers)
        self.keys, self.values = keys, values
        return keys, values


def new_cache(config: Any) -> DynamicCache:
    """An empty cache for reading prompts. Raises Unsupported where a layer keeps less or something else."""
    cache = DynamicCache(config=config)
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        raise Unsupported("a layer keeps no plain keys and values")
    return cache


class SlotCache(Cache):
    """The layers of the rows under way, filled from caches that read their prompts."""

    def __init__(self, read: DynamicCache) -> None:
        super().__init__(layers=[SlotLayer() for _ in read.layers])

    def arrange(self, keep: torch.Tensor | None, new: DynamicCache | None, width: int) -> None:
        """See SlotLayer."""
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, SlotLayer)
            layer.arrange(keep, None if new is None else new.layers[i], width)

    def replace(self, slots: torch.Tensor, new: DynamicCache, width: int) -> None:
        """See SlotLayer."""
        for layer, fresh in zip(self.layers, new.layers, strict=True):
            assert isinstance(layer, SlotLayer)
            layer.replace(slots, fresh, width)
