"""RESULTS.md, written by the benchmarks themselves: one section a command, replaced when the command runs again."""

import argparse
import datetime
import platform
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
HEAD = """# What was measured

Each section was written by the command above its table, and is replaced when that command runs again. Both sides of a
ratio ran in one command on the same threads, rows, order, model and dtype.
"""


def option(parser: argparse.ArgumentParser) -> None:
    """Add `--record`: where the section goes; `none` only prints."""
    parser.add_argument("--record", default=str(RESULTS), help="the file that takes the section, or none")


def hardware() -> str:
    """Processor (cores) and, where there is one, the GPU."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        name = found.group(1)
    import os

    text = f"{name}, {len(os.sched_getaffinity(0))} cores"
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            text += f", {torch.cuda.get_device_name()} ({torch.version.cuda})"
    return text


def versions(*names: str) -> str:
    """`name version` of installed packages; those that are not there are left out."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([f"Python {platform.python_version()}", *found])


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(
    title: str, body: str, target: str, packages: tuple[str, ...] = ("torch", "transformers"), quiet: bool = False
) -> None:
    """Print a section, unless `quiet`, and put it into `target`, whole or not at all, in place of the one so titled."""
    command = shlex.join(["python", relative(sys.argv[0]), *_measured(sys.argv[1:])])
    date = datetime.date.today().isoformat()
    text = f"## {title}\n\n`{command}`, {date}, {hardware()}, {versions(*packages)}\n\n{body.strip()}\n"
    from alpaca.results import write_atomic

    if not quiet:
        print(text)
    if target == "none":
        return
    path = Path(target)
    old = path.read_text(encoding="utf-8") if path.is_file() else HEAD
    parts = [p for p in re.split(r"(?m)^(?=## )", old) if p.strip()]
    kept = [p.rstrip() + "\n" for p in parts if not p.startswith(f"## {title}\n")]
    place = next((i for i, p in enumerate(parts) if p.startswith(f"## {title}\n")), len(kept))
    kept.insert(place, text)
    write_atomic(path, "\n".join(kept))


def _measured(words: list[str]) -> list[str]:
    """The arguments without --record, which changes nothing that is measured."""
    at = [i for i, word in enumerate(words) if word == "--record"]
    hidden = {j for i in at for j in (i, i + 1)} | {i for i, w in enumerate(words) if w.startswith("--record=")}
    return [word for i, word in enumerate(words) if i not in hidden]


def relative(script: str) -> str:
    """A script's path from the project's root."""
    root = RESULTS.parent.parent
    path = Path(script).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
