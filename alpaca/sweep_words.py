"""What a command line says of a sweep: the words that Hydra is given in place of it, and the names of its jobs.

Read with every command, so it imports next to nothing.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from alpaca.errors import UserError

LONGEST_NAME = 150
RESUME = "sweep.resume="
FLAGS = ("-m", "--multirun")


def prepare(arguments: list[str], stamp: str, keys: list[str]) -> tuple[list[str], Path | None]:
    """The arguments as Hydra takes them, and the sweep folder, or None where there is one run.

    `keys`: the override keys of the command that do not vary, which are left out of the jobs' names.
    """
    resumed = [a.removeprefix(RESUME) for a in arguments if a.startswith(RESUME)]
    arguments = [a for a in arguments if not a.startswith(RESUME)]
    launcher = any(a.startswith(("hydra/launcher=", "hydra.launcher.")) for a in arguments)
    if not resumed and not launcher and not any(a in FLAGS for a in arguments):
        return arguments, None
    if not any(a in FLAGS for a in arguments):
        arguments = ["-m", *arguments]
    given = [_unquoted(a.partition("=")[2]) for a in arguments if a.startswith("hydra.sweep.dir=")]
    if resumed and not Path(resumed[-1]).is_dir():
        raise UserError(
            f"{RESUME}{resumed[-1]} is not a folder: it takes the folder of a sweep that was started before"
        )
    folder = Path((resumed or given or [f"multirun/{stamp}"])[-1]).absolute()
    arguments = [a for a in arguments if not a.startswith("hydra.sweep.dir=")]
    text = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    fixed = ",".join(f'"{key}"' for key in keys)
    naming = "hydra.job.config.override_dirname"
    words = [f'hydra.sweep.dir="{text}"', f"{naming}.exclude_keys=[{fixed}]"]
    return [*arguments, *words, f"{naming}.kv_sep=-", f"{naming}.item_sep=--"], folder


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def job_name(number: Any, overrides: str) -> str:
    """The folder of a job: its overrides in characters that need no quotes anywhere, or its number where nothing varies."""
    name = re.sub(r"[^\w.+-]+", "_", str(overrides or "")).strip("_-")
    if len(name) > LONGEST_NAME:
        name = name[: LONGEST_NAME - 9] + "-" + hashlib.sha256(str(overrides).encode()).hexdigest()[:8]
    return name if name.strip(".") else str(number)
