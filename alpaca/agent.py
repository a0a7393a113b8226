"""python -m alpaca.agent KEY=VALUE …: train.py with overrides as a W&B agent writes them, from any working directory.

The agent writes values as Python does (None, ['q_proj', 'v_proj']); Hydra reads null and [q_proj,v_proj].
"""

import ast
import os
import sys
from pathlib import Path
from typing import Any

TRAIN = Path(__file__).resolve().parent.parent / "train.py"


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


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, str(TRAIN), *(override(a) for a in sys.argv[1:])])
