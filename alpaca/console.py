"""What a person sees while something runs: stderr for progress and notices, stdout for results alone."""

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_warnings: list[str] = []
_muted = False


def mute() -> None:
    """Say nothing from here on: another process of the same run says it. Warnings are still kept."""
    global _muted
    _muted = True


@contextmanager
def muted(yes: bool = True) -> Iterator[None]:
    """Say nothing meanwhile, where `yes`: it was said before."""
    global _muted
    before, _muted = _muted, _muted or yes
    try:
        yield
    finally:
        _muted = before


def say(text: str = "") -> None:
    """A line of progress."""
    if not _muted:
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A line that a user should not miss; kept for result.json."""
    _warnings.append(text)
    say(f"warning: {text}")


def warnings() -> list[str]:
    """Every warning of this process so far, once."""
    return list(dict.fromkeys(_warnings))


def results_only_on_stdout() -> contextlib.AbstractContextManager[object]:
    """While it holds, what libraries print or log to stdout goes to stderr."""
    return contextlib.redirect_stdout(sys.stderr)


def quiet_libraries() -> None:
    """Notices of libraries that no user of this project can act on."""
    import logging
    import warnings

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("accelerate.accelerator").setLevel(logging.ERROR)  # that DeepSpeed accumulates, as it should
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in str(record.msg))
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*", category=UserWarning)
    warnings.filterwarnings("ignore", message=".*_tensor. is deprecated.*", category=FutureWarning)
