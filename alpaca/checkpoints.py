"""Checkpoints that are whole or not there: written beside, listed in a marker, synced, renamed. Knows no trainer."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.errors import UserError

MARKER = "COMPLETE.json"
STAGING = ".writing"
HASHED_UP_TO = 256 * 2**20
"""Files larger than this many bytes are checked by their size alone: hashing a large model costs minutes a save."""


def step_of(folder: Path) -> int:
    """Step number in the name `checkpoint-N`, or -1."""
    tail = folder.name.removeprefix("checkpoint-")
    return int(tail) if tail.isdigit() else -1


def commit(staged: Path, final: Path, state: dict[str, Any]) -> None:
    """Make `staged` the checkpoint `final`: list every file, sync, rename."""
    files = {}
    for path in sorted(p for p in staged.rglob("*") if p.is_file()):
        files[path.relative_to(staged).as_posix()] = _fingerprint(path)
        sync(path)
    marker = staged / MARKER
    marker.write_text(json.dumps({"state": state, "files": files}, indent=1))
    sync(marker)
    sync(staged)
    if final.exists():
        shutil.rmtree(final)
    staged.rename(final)
    sync(final.parent)


def _fingerprint(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > HASHED_UP_TO:
        return {"bytes": size}
    return {"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def sync(path: Path) -> None:
    """Hand a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fault(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, or None when it is whole."""
    try:
        files = json.loads((folder / MARKER).read_text())["files"]
        for name, expected in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
            if "sha256" in expected and _fingerprint(path) != expected:
                return f"the content of {name} has changed"
    except FileNotFoundError:
        return f"its marker {MARKER} is missing: it was never finished"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its marker {MARKER} is damaged ({type(error).__name__})"
    return None


def state(folder: Path) -> dict[str, Any]:
    """What `commit` was given for a whole checkpoint."""
    return json.loads((folder / MARKER).read_text())["state"]


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint below `folder`; damaged ones are passed over with a warning."""
    if not folder.is_dir():
        return None
    for candidate in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        reason = fault(candidate)
        if reason is None:
            return candidate
        console.warn(f"{candidate} is passed over: {reason}")
    return None


def find(resume: str, folder: Path) -> Path | None:
    """The checkpoint that `resume` names: `auto` the newest whole one below `folder` or none, `none` none, else a path."""
    if resume == "none":
        return None
    if resume == "auto":
        return newest(folder)
    path = Path(resume)
    if not path.is_dir():
        raise UserError(f"resume={resume} is not a folder: it takes auto, none or a checkpoint folder")
    if step_of(path) < 0:
        inner = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        found = newest(inner)
        if found is None:
            raise UserError(f"resume={resume} holds no whole checkpoint: it takes auto, none or a checkpoint folder")
        return found
    if (reason := fault(path)) is not None:
        raise UserError(f"resume={resume} cannot be used: {reason}; resume=auto takes the newest whole checkpoint")
    return path


def rotate(folder: Path, keep: int | None) -> None:
    """Remove all but the newest `keep` whole checkpoints."""
    if keep is None:
        return
    whole = [c for c in sorted(folder.glob("checkpoint-*"), key=step_of) if (c / MARKER).is_file()]
    for old in whole[: max(0, len(whole) - keep)]:
        (old / MARKER).unlink()  # from here on it is no checkpoint, whenever the removal is cut short
        shutil.rmtree(old)
