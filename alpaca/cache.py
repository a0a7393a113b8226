"""A folder of finished entries, each written once: whole or not at all, by one process. Knows nothing of the content.

An entry is a folder KEY. It is written as KEY.tmp-HOST-PID and renamed when all of it is on disk; a lock for each key
makes a second process wait and then read.
"""

import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alpaca import console
from alpaca.errors import UserError


def root(setting: str | None) -> Path:
    """The cache folder: data.cache, else $ALPACA_CACHE, else ~/.cache/alpaca."""
    return Path(setting or os.environ.get("ALPACA_CACHE") or "~/.cache/alpaca").expanduser()


def entry(folder: Path, key: str, whole: Callable[[Path], bool], write: Callable[[Path], None]) -> tuple[Path, bool]:
    """The folder of an entry, and whether it was there already.

    `whole` tells whether an entry can be used; `write` fills an empty folder. A damaged entry is written again.
    Raises UserError when the cache cannot be written; whatever `write` raises passes, and leaves nothing behind.
    """
    place = folder / key
    if place.is_dir() and whole(place):
        return place, True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{key}.lock"):
            if place.is_dir():
                if whole(place):
                    return place, True
                console.warn(f"{place} is damaged: written again")
                shutil.rmtree(place)
            _remove_stale(folder, key)
            _write(place, write)
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be written ({error.strerror or error}): "
            "free some space or name another with data.cache=DIR"
        ) from error
    return place, False


def _write(place: Path, write: Callable[[Path], None]) -> None:
    temporary = place.with_name(f"{place.name}.tmp-{socket.gethostname()}-{os.getpid()}")
    try:
        temporary.mkdir()
        write(temporary)
        for path in [*temporary.iterdir(), temporary]:
            _sync(path)
        temporary.rename(place)
        _sync(place.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; it is removed at the end, so that a waiter checks that its file is still the one in place."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _acquire(descriptor, path)
            if _same_file(descriptor, path):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.say(f"waiting for another process that prepares the same data ({path})")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _remove_stale(folder: Path, key: str) -> None:
    """Remove what killed writers left: of this key all (its lock is held here), of others those of dead processes."""
    for path in folder.glob("*.tmp-*-*"):
        owner, host, pid = _owner(path)
        if owner == key or (host == socket.gethostname() and not _alive(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _owner(path: Path) -> tuple[str, str, int]:
    name, _, rest = path.name.partition(".tmp-")
    host, _, pid = rest.rpartition("-")
    return name, host, int(pid) if pid.isdigit() else 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
