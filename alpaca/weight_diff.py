"""Weights as a difference to their base, for those who have the base: exact, with a hash for each tensor.

The difference is taken between bit patterns, as whole numbers that wrap around, so that adding it to the base gives
back every bit in any dtype (the sum of two floats would not).
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca import console, weights
from alpaca.errors import UserError

if TYPE_CHECKING:
    import torch

    from alpaca.export import Subject
    from alpaca.export_config import ExportConfig

FILE = "diff.json"


def _bits(tensor: "torch.Tensor") -> "torch.Tensor":
    import torch

    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def _digest(tensor: "torch.Tensor") -> str:
    return hashlib.sha256(_bits(tensor.contiguous()).numpy().tobytes()).hexdigest()


def _like(base: "torch.Tensor | None", tensor: "torch.Tensor") -> "torch.Tensor":
    """The base's tensor in dtype and shape of the tuned one; rows that the base lacks count as zeros."""
    import torch

    if base is None:
        return torch.zeros_like(tensor)
    base = base.to(tensor.dtype)
    if base.shape == tensor.shape:
        return base
    result = torch.zeros_like(tensor)
    rows = min(base.shape[0], tensor.shape[0])
    result[:rows] = base[:rows]
    return result


def write(subject: "Subject", place: Path, config: "ExportConfig") -> None:
    """A folder as format=hf writes it, with differences in place of weights, and diff.json."""
    from alpaca.export import write_surroundings, write_weights

    base = weights.Files(base_folder(subject, config))
    _check_shapes(subject, base)
    hashes: dict[str, dict[str, Any]] = {}

    def difference(name: str, tensor: "torch.Tensor") -> "torch.Tensor":
        stored = base.read(name) if name in base else None
        hashes[name] = {"sha256": _digest(tensor), "base_sha256": _digest(stored) if stored is not None else None}
        return (_bits(tensor) - _bits(_like(stored, tensor).contiguous())).view(tensor.dtype)

    place.mkdir()
    write_surroundings(subject, place, write_weights(subject, place, config.dtype, difference))
    content = {"kind": "bit patterns, tuned minus base, wrapping", "base": base.folder.name, "tensors": hashes}
    (place / FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def base_folder(subject: "Subject", config: "ExportConfig") -> Path:
    """The base to take the difference to: the one named, else the run's own. Raises UserError."""
    if config.base is not None:
        return weights.local_folder(config.base)
    trained = subject.config
    if subject.source.adapter is not None:
        return subject.source.base
    if trained is not None and trained.model.path is not None:
        return weights.local_folder(trained.model.path, trained.model.revision)
    raise UserError("base is missing: this run made its model from nothing; give base=DIR_OR_HUB_ID")


def _check_shapes(subject: "Subject", base: weights.Files) -> None:
    names = [n for portion in subject.source.shards() for n in portion]
    if missing := [n for n in names if n not in base]:
        raise UserError(f"base={base.folder} has no {missing[0]}: it is not the base of these weights")
    for name in names:
        here, there = subject.source.tensor(name).shape, base.read(name).shape
        if here[1:] != there[1:] or (here[0] != there[0] and "embed" not in name and "lm_head" not in name):
            raise UserError(
                f"base={base.folder}: {name} is {list(there)} there and {list(here)} here: it is another model"
            )


def recover(diff: Path, base: str, place: Path) -> None:
    """The weights again. Raises UserError naming the first tensor of the base, or of the difference, that is not right."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    try:
        known = json.loads((diff / FILE).read_text(encoding="utf-8"))["tensors"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{diff / FILE} is damaged ({error}): copy it again") from None
    own, files = weights.Files(diff), weights.Files(weights.local_folder(base))
    place.mkdir()
    for names in own.shards():
        portion = {}
        for name in names:
            stored = files.read(name) if name in files else None
            if known[name]["base_sha256"] is not None and (
                stored is None or _digest(stored) != known[name]["base_sha256"]
            ):
                raise UserError(
                    f"base={base}: {name} is not the tensor that the difference was taken to: give the same base"
                )
            change = own.read(name)
            tensor = (_bits(change) + _bits(_like(stored, change).contiguous())).view(change.dtype)
            if _digest(tensor) != known[name]["sha256"]:
                raise UserError(f"{diff}: {name} does not come back as it was: its file is damaged, copy it again")
            portion[name] = tensor
        file = own.place(names[0])
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        save_file(portion, place / file.name, metadata=metadata)
    for path in diff.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name != FILE:
            shutil.copy(path, place)
    console.say(f"{len(known)} tensors restored, every one with the hash it had")


def check(subject: "Subject", place: Path, config: "ExportConfig") -> str:
    """Recover what was just written and compare the logits of that. Returns what to say; raises on a difference."""
    from dataclasses import replace

    from alpaca.export import verify

    back = place.with_name(f"{place.name}.back")
    try:
        recover(place, str(base_folder(subject, config)), back)
        verify(subject, back, replace(config, format="hf"))
    finally:
        shutil.rmtree(back, ignore_errors=True)
    return "the difference gives the weights back"
