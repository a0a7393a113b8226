"""task=paper: every published figure beside ours. What can be computed here is computed each time."""

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.evaluation import ours, outcome, runs
from alpaca.evaluation.config import EvaluateConfig
from alpaca.evaluation.published import Figure, Status, figures
from alpaca.page import Page


@dataclass(frozen=True)
class Row:
    """A line of the ledger."""

    name: str
    published: Any
    ours: Any
    tolerance: float
    status: Status
    source: str
    command: str


def paper(config: EvaluateConfig, run_dir: Path) -> None:
    """Print the table; ledger.json and a page go into `run_dir`. Exit code 1 when a figure fails."""
    console.say("counting parameters on the meta device")
    rows = ledger(config)
    run_dir.mkdir(parents=True, exist_ok=True)
    counts = Counter(r.status for r in rows)
    words = ", ".join(f"{counts[s]} {s}" for s in ("PASS", "FAIL", "NEEDS-GPU", "NEEDS-WEIGHTS", "NEEDS-DATA"))
    head = ("status", "figure", "published", "ours", "within", "source")
    table = [(r.status, r.name, _show(r.published), _show(r.ours), _within(r), r.source) for r in rows]
    outcome.print_table(table, head)
    page = Page(f"Published figures: {words}")
    page.table(table, head)
    open_rows = [r for r in rows if r.status.startswith("NEEDS")]
    if open_rows:
        page.heading("What would fill the open rows")
        page.table([(r.name, r.command) for r in open_rows], ("figure", "command"))
    outcome.write(run_dir, "paper", {"counts": counts}, {"rows": [asdict(r) for r in rows]}, page)
    outcome.write_json(run_dir / "ledger.json", [asdict(r) for r in rows])
    for command in dict.fromkeys(r.command for r in open_rows):
        console.say(f"  fills {sum(r.command == command for r in open_rows)}: {command}")
    outcome.done(run_dir, words)
    if counts["FAIL"]:
        raise SystemExit(1)


def ledger(config: EvaluateConfig) -> list[Row]:
    """Every row, with our value where there is one."""
    path, settings = config.data.path, config.ledger
    values = dict(
        chain(
            ours.sizes(),
            ours.steps(path),
            ours.settings(),
            ours.data(path, settings.seeds),
            ours.tokens(path, settings),
            *(runs.read(folder) for folder in settings.runs),
        )
    )
    return [judge(figure, values.get(figure.name)) for figure in figures()]


def judge(figure: Figure, value: Any) -> Row:
    """A figure with our value, or with None where it could not be had."""
    status: Status = figure.needs
    if value is not None:
        if figure.at_most:
            good = value <= figure.published
        elif isinstance(figure.published, (int, float)):
            good = abs(value - figure.published) <= figure.tolerance + 1e-12
        else:
            good = value == figure.published
        status = "PASS" if good else "FAIL"
    return Row(figure.name, figure.published, value, figure.tolerance, status, figure.source, figure.command)


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _within(row: Row) -> str:
    if any(f.name == row.name and f.at_most for f in figures()):
        return "at most"
    return f"±{row.tolerance:g}" if row.tolerance else "exact"
