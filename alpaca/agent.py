"""What a sweep file's `command` runs: train.py with overrides as a W&B agent writes them, from any working directory.

The agent writes values as Python does (None, ['q_proj', 'v_proj']); Hydra reads null and [q_proj,v_proj]. A run that the
agent stopped, for Hyperband or at the user's word, ends by the signal itself once it has saved: the agent takes an exit
code for a failure, and gives up after a few.
"""

import ast
import atexit
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
STOPPED = {128 + signal.SIGTERM: signal.SIGTERM, 128 + signal.SIGINT: signal.SIGINT}
"""Exit code of a training that was asked to stop and saved -> the signal that asked."""


def override(argument: str) -> str:
    """`key=value` with a Python value as Hydra reads it; anything else as it came."""
    key, equals, text = argument.partition("=")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return argument
    return f"{key}={hydra_value(value)}" if equals else argument


def hydra_value(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(hydra_value(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{hydra_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str) and not value.replace("_", "").replace("-", "").replace(".", "").isalnum():
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def main() -> None:
    """Run train.py in this process, which the agent watches and signals."""
    asked: list[int] = []
    atexit.register(lambda: end_by(asked[0]) if asked else None)  # first registered, so last to run
    sys.argv = [str(TRAIN), *(override(a) for a in sys.argv[1:])]
    sys.path.insert(0, str(TRAIN.parent))
    try:
        runpy.run_path(str(TRAIN), run_name="__main__")
    except SystemExit as end:
        if end.code in STOPPED:
            asked.append(STOPPED[int(end.code)])
        raise


def end_by(number: int) -> None:
    """End this process as the signal would have ended it."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    main()
