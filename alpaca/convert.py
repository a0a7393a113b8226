"""python -m alpaca.convert SOURCE FOLDER: pickled PyTorch weights as safetensors, without running what they contain.

`torch.load(weights_only=True)` reads tensors and plain containers and refuses everything else.
"""

import json
import shutil
import sys
from pathlib import Path

from alpaca.cli import with_errors
from alpaca.console import say
from alpaca.errors import UserError


def convert(source: str, target: Path) -> None:
    """Convert a folder or hub id. Raises UserError for what holds no weights or more than weights."""
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(source)
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target} is not empty: give a new folder")
    parts = _parts(folder)
    staging = target.with_name(f".{target.name}.writing")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        names: dict[str, str] = {}
        for i, path in enumerate(parts):
            name = "model.safetensors" if len(parts) == 1 else f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors"
            names |= dict.fromkeys(_write(path, staging / name), name)
            say(f"{path.name} -> {name}")
        if len(parts) > 1:
            index = {"metadata": {}, "weight_map": names}
            (staging / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
        for path in folder.iterdir():
            if path.is_file() and path.suffix in (".json", ".model", ".txt") and "pytorch_model" not in path.name:
                shutil.copy(path, staging / path.name)
        if target.exists():
            target.rmdir()
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    say(f"done: model.path={target}")


def _download(source: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(source, allow_patterns=["*.bin", "*.bin.index.json", "*.json", "*.model", "*.txt"])
        )
    except Exception as error:
        raise UserError(
            f"{source} is no folder and cannot be had from the hub ({str(error).splitlines()[0]})"
        ) from None


def _parts(folder: Path) -> list[Path]:
    index = folder / "pytorch_model.bin.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if missing := [n for n in names if not (folder / n).is_file()]:
            raise UserError(f"{folder} lacks {missing[0]}: copy it again")
        return [folder / n for n in names]
    if (folder / "pytorch_model.bin").is_file():
        return [folder / "pytorch_model.bin"]
    raise UserError(f"{folder} has no pytorch_model.bin: there is nothing to convert")


def _write(path: Path, target: Path) -> list[str]:
    import torch
    from safetensors.torch import save_file

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} holds more than weights, or is damaged, and is not opened ({type(error).__name__})"
        ) from None
    seen: set[int] = set()
    kept = {}
    for name, tensor in tensors.items():
        # safetensors stores no memory twice, as tied weights would ask for
        kept[name] = tensor.clone() if tensor.data_ptr() in seen else tensor.contiguous()
        seen.add(tensor.data_ptr())
    save_file(kept, target, metadata={"format": "pt"})
    return list(kept)


def main() -> None:
    """The command."""
    if len(sys.argv) != 3:
        raise UserError("usage: python -m alpaca.convert SOURCE FOLDER")
    convert(sys.argv[1], Path(sys.argv[2]))


if __name__ == "__main__":
    with_errors(main)
