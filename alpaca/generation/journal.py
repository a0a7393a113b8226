"""Every reply, on disk before it is looked at: an append-only JSONL file that one process at a time may hold.

Lines are objects with a `kind`. Knows nothing of what they mean.
"""

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

from alpaca.console import warn
from alpaca.errors import UserError


class Journal:
    """The journal at `path`, locked until it is closed or the process ends, however it ends.

    `entries` holds what was there. Raises UserError when another process holds it or a line is broken; `elsewhere` is the
    setting that names another place.
    """

    def __init__(self, path: Path, elsewhere: str = "output=FILE") -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): give another {elsewhere}") from None
        self._guard = threading.Lock()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise UserError(
                f"{path} is in use by another process: wait until it ends, or give another {elsewhere}"
            ) from None
        try:
            self.entries = self._read()
        except BaseException:
            os.close(self._file)
            raise

    def _read(self) -> list[dict[str, Any]]:
        with open(self.path, "rb") as file:
            lines = file.read().split(b"\n")
        torn, lines = lines[-1], lines[:-1]
        entries, size = [], 0
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                _ = entry["kind"]
            except (ValueError, TypeError, LookupError):
                if number == len(lines) and not torn:
                    torn = line
                    break
                raise UserError(
                    f"{self.path}, line {number} is no line of a journal: it was changed by hand; restore that line or remove it"
                ) from None
            entries.append(entry)
            size += len(line) + 1
        if torn and _whole(torn):  # all of it but the end of the line
            entries.append(json.loads(torn))
            size += os.pwrite(self._file, torn + b"\n", size)
        elif torn:
            warn(f"{self.path}: the last line was torn ({len(torn)} bytes) and is dropped; its request is asked again")
            os.ftruncate(self._file, size)
        self._size = self._synced = size
        os.lseek(self._file, size, os.SEEK_SET)
        return entries

    def append(self, entry: dict[str, Any], sync: bool = True) -> None:
        """Write a line; with `sync` it is on the disk when this returns. Raises UserError when it cannot be written.

        Without `sync` the line survives the end of the process but not, before the next `sync()`, that of the machine.
        """
        data = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._guard:
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._file, data[written:])
            except OSError as error:
                os.ftruncate(self._file, self._size)
                os.lseek(self._file, self._size, os.SEEK_SET)
                raise self._unwritable(error) from None
            self._size += len(data)
        if sync:
            self.sync()

    def sync(self) -> None:
        """Return when every line written so far is on the disk. Raises UserError when that cannot be."""
        with self._guard:
            size = self._size
            if self._synced >= size:
                return
        try:
            os.fsync(self._file)  # others may write meanwhile
        except OSError as error:
            raise self._unwritable(error) from None
        with self._guard:
            self._synced = max(self._synced, size)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"{self.path} cannot be written ({error.strerror}): what it holds is safe; make room and run the same command again"
        )

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._file)


def _whole(line: bytes) -> bool:
    try:
        return "kind" in json.loads(line)
    except (ValueError, TypeError):
        return False


def write_beside(path: Path, data: str | bytes) -> None:
    """Replace a file at once: a reader sees the old one or the new one. Raises UserError when there is no room."""
    if isinstance(data, str):
        data = data.encode("utf-8", "backslashreplace")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({error.strerror}): the replies are safe in the journal; make room and run the same command again"
        ) from None
