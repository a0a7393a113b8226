"""Where the passages of a corpus were found, so that the next start need not look for them. Holds no text.

The file can be removed at any time. Knows neither how text is cut nor what a passage is.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpaca.errors import UserError
from alpaca.generation.journal import write_beside


@dataclass(frozen=True)
class Index:
    """`of`: the files and settings; `dropped`: how many for each reason; `passages`: name of the text, first character,
    end and key of each."""

    of: str
    dropped: dict[str, int]
    passages: list[tuple[str, int, int, str]]


def identity(files: Iterable[tuple[str, Path]], settings: Any) -> str:
    """Of files, by name and content, that are read with `settings`."""
    whole = hashlib.sha256(json.dumps(settings).encode())
    for name, file in files:
        with contextlib.suppress(OSError):  # one that cannot be read has no passages
            whole.update(
                f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode("utf-8", "surrogateescape")
            )
    return whole.hexdigest()


def load(path: Path) -> Index | None:
    """The index in a file; None where there is none, or a broken one."""
    try:
        data = json.loads(path.read_bytes())
        return Index(data["of"], data["dropped"], [(str(n), int(a), int(b), str(k)) for n, a, b, k in data["passages"]])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def save(path: Path, index: Index) -> None:
    """Write it; a folder that cannot be written is told by what must be written."""
    with contextlib.suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, json.dumps(asdict(index), ensure_ascii=False))
