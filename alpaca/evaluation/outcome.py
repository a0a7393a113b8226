"""What every task leaves: evaluation.json and a page in its folder, and a table on the terminal. Knows no task."""

import json
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.page import Page
from alpaca.results import write_atomic

FILE = "evaluation.json"


def write(run_dir: Path, task: str, settings: dict[str, Any], figures: dict[str, Any], page: Page, also: str | None = None) -> None:  # fmt: skip
    """evaluation.json and report.html with its pictures in `run_dir`; of a training run also RUN/evaluations/TASK.json.

    `also`: a further name for evaluation.json.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    content = {"task": task, **settings, "figures": figures}
    for name in (FILE, also):
        if name:
            write_json(run_dir / name, content)
    page.write(run_dir)
    if settings.get("run"):
        beside = Path(settings["run"]) / "evaluations"
        beside.mkdir(exist_ok=True)
        write_json(beside / f"{task}.json", content)


def write_json(path: Path, content: Any) -> None:
    """A JSON file, written beside and renamed."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode("utf-8", "backslashreplace").decode())


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    """A JSONL file, written beside and renamed."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(path, text.encode("utf-8", "backslashreplace").decode())


def done(run_dir: Path, words: str) -> None:
    """The last line of progress."""
    console.say(f"{words}\n{run_dir / 'report.html'}")


def print_table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> None:
    """Aligned columns on stdout; on a terminal the widest column gives way, in a file nothing is cut."""
    import sys

    widths = [max(map(_width, column)) for column in zip(head, *rows, strict=True)]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - 2 * (len(widths) - 1)
        while sum(widths) > room and max(widths) > 12:
            widths[widths.index(max(widths))] -= 1
    for row in (head, ["-" * w for w in widths], *rows):
        cells = [_fit(cell, width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def _width(text: str) -> int:
    """Columns of a terminal: wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _fit(text: str, width: int) -> str:
    if _width(text) > width:
        while _width(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - _width(text))
