"""Tensors of a tuned model, one after another: read from its files, merged with its adapter, cast. Knows no formats.

Nothing is loaded whole: the memory needed is that of one tensor and the adapter.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca import model as base_model
from alpaca.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

_LORA = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")


@dataclass
class Files:
    """A folder of safetensors by tensor name."""

    folder: Path
    _where: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        base_model.check_weights(self.folder)
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            try:
                found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            except (ValueError, KeyError) as error:
                raise UserError(f"{index} is damaged ({first_line(error)}): copy it again") from None
            self._where = {name: self.folder / file for name, file in found.items()}
        else:
            path = self.folder / "model.safetensors"
            with opened(path) as file:
                self._where = dict.fromkeys(file.keys(), path)

    def shards(self) -> list[list[str]]:
        """Names of tensors, file by file."""
        files: dict[Path, list[str]] = {}
        for name, path in self._where.items():
            files.setdefault(path, []).append(name)
        return [files[path] for path in sorted(files)]

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def place(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._where[name]

    def read(self, name: str) -> "torch.Tensor":
        """One tensor."""
        with opened(self._where[name]) as file:
            return file.get_tensor(name)


def opened(path: Path) -> Any:
    """safetensors' own reader of a file. Raises UserError where the file is damaged or missing."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): it is damaged, copy it again") from None


@dataclass
class Adapter:
    """A LoRA adapter as PEFT saved it."""

    folder: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """adapter_config.json."""
        path = self.folder / "adapter_config.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged ({first_line(error)}): copy it again") from None

    @cached_property
    def tensors(self) -> dict[str, "torch.Tensor"]:
        """Layer and part -> tensor, in float32: `model.layers.0.self_attn.q_proj` + `.lora_A.weight`."""
        with opened(self.folder / "adapter_model.safetensors") as file:
            loaded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        named = {name.removeprefix("base_model.model."): tensor.float() for name, tensor in loaded.items()}
        if strange := [n for n in named if not n.endswith(_LORA)]:
            raise UserError(f"{self.folder} holds {strange[0]}, which is no part of LoRA: it cannot be merged here")
        return named

    def layers(self) -> list[str]:
        """Names of the layers that it changes."""
        return sorted({n.rpartition(".lora_")[0] for n in self.tensors})

    def merged(self, layer: str, weight: "torch.Tensor") -> "torch.Tensor":
        """float32 [out, in]: W + scale B A, and with DoRA each row brought to its learnt length (arXiv 2402.09353)."""
        settings, part = self.settings, f"{layer}.lora_"
        down, up = self.tensors[f"{part}A.weight"], self.tensors[f"{part}B.weight"]
        rank = down.shape[0]
        scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
        result = weight.float() + scale * (up @ down)
        if settings.get("use_dora"):
            length = self.tensors[f"{part}magnitude_vector"]
            result = result * (length / result.norm(dim=1)).unsqueeze(1)
        return result


@dataclass
class Source:
    """Where a model's weights are, and what becomes of its vocabulary of `rows` tokens."""

    base: Path
    """Folder of the whole weights: the base of an adapter, or the tuned model itself."""
    adapter: Path | None
    rows: int
    """Rows that both embeddings shall have; fewer than the files hold cuts, more adds the mean of the old ones."""

    def __post_init__(self) -> None:
        from transformers import AutoConfig

        self.files = Files(self.base)
        self.config = AutoConfig.from_pretrained(self.base)
        self.lora = Adapter(self.adapter) if self.adapter else None
        shape = base_model.shape(self.config)
        layers = [m for m in (shape.get_input_embeddings(), shape.get_output_embeddings()) if m is not None]
        named = shape.named_parameters(remove_duplicate=False)
        self._embeddings = {name for name, p in named if any(p is layer.weight for layer in layers)}
        self._layers = self._find_layers()

    def _find_layers(self) -> dict[str, str]:
        """Tensor in the files -> layer of the adapter."""
        found = {}
        for layer in self.lora.layers() if self.lora else []:
            names = (f"{layer}.weight", f"{layer}.weight".removeprefix("model."))
            name = next((n for n in names if n in self.files), None)
            if name is None:
                raise UserError(f"{self.adapter} changes {layer}, which {self.base} has not: is it the adapter's base?")
            found[name] = layer
        return found

    def shards(self) -> list[list[str]]:
        """Names of tensors, in the portions in which they are stored."""
        return self.files.shards()

    def tensor(self, name: str, dtype: "torch.dtype | None" = None) -> "torch.Tensor":
        """One tensor of the tuned model; `dtype` null: as it is stored. Raises UserError where float16 overflows."""
        import torch

        stored = self.files.read(name)
        kind = dtype if dtype is not None and stored.is_floating_point() else stored.dtype
        result = stored
        if name in self._layers:
            assert self.lora is not None
            result = self.lora.merged(self._layers[name], stored)
        if name in self._embeddings and result.shape[0] != self.rows:
            result = _fit(result, self.rows)
        cast = result.to(kind)
        if kind == torch.float16 and not bool(torch.isfinite(cast).all()) and bool(torch.isfinite(result).all()):
            raise UserError(f"{name} has values beyond float16's 65,504: use dtype=bfloat16 or float32")
        return cast.contiguous()

    def all(self, dtype: "torch.dtype | None" = None) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Every tensor, one at a time."""
        for names in self.shards():
            for name in names:
                yield name, self.tensor(name, dtype)


def _fit(weight: "torch.Tensor", rows: int) -> "torch.Tensor":
    """Cut, or lengthened by the mean of the rows as in training."""
    import torch

    if rows <= weight.shape[0]:
        return weight[:rows]
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - weight.shape[0], -1)])


def local_folder(path: str, revision: str | None = None) -> Path:
    """The folder of a model: itself, or the hub's files in the local cache. Raises UserError."""
    if Path(path).is_dir():
        base_model.check_folder(Path(path))
        return Path(path)
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns))
    except Exception as error:
        raise UserError(f"{path} is no folder here and cannot be had from the hub ({first_line(error)})") from None
