"""The ways a run can end that are told in a line, and how other libraries' errors are told apart."""

import errno


class UserError(ValueError):
    """Something the user can mend: the message names the value, what is allowed and what to do.

    Entrypoints print it without a traceback and exit with code 2.
    """


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved its state; `code` is the exit code."""

    def __init__(self, message: str, code: int = 130) -> None:
        super().__init__(message)
        self.code = code

    @classmethod
    def by(cls, stop: BaseException, message: str) -> "Interrupted":
        """For what ended it: KeyboardInterrupt (Ctrl-C), or a task that was cancelled on SIGTERM."""
        return cls(message, 130 if isinstance(stop, KeyboardInterrupt) else 143)


class WorkerFailed(Exception):
    """A worker process ended by a fault that it has already printed; the message says which and how."""


_WRITE_ERRNO = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_WRITE_WORDS = (
    "no space left",
    "disk quota",
    "file too large",
    "read-only file system",
    "iostream",
    "inline_container",
    "streamwriter",
)


def is_write_error(error: BaseException) -> bool:
    """Whether something could not be written, in the various ways that libraries say so."""
    if isinstance(error, OSError):
        return error.errno in _WRITE_ERRNO
    return any(words in str(error).lower() for words in _WRITE_WORDS)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
