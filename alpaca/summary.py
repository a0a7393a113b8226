"""Many runs side by side: a ranked table, curves over each other, parameters against the final loss. Knows no torch."""

import csv
import io
import sys
from dataclasses import dataclass, field
from pathlib import Path

from alpaca import console, multirun, slurm_state
from alpaca.errors import UserError
from alpaca.page import Page
from alpaca.results import RunFolder, write_atomic

SMOOTHED = 0.1
"""Without a validation set the final loss is the mean over this last share of the logged training losses."""


@dataclass
class Run:
    """One run of many. `parameters`: what varies, as text; `loss`: nats a token, None where none was logged."""

    name: str
    folder: Path
    status: str
    parameters: dict[str, str]
    loss: float | None
    measured: str
    steps: int
    seconds: float
    error: str = ""
    curve: list[tuple[int, float]] = field(default_factory=list)


def find(folder: Path) -> list[Path]:
    """The run folders below `folder`, or itself."""
    marks = (multirun.JOB, "result.json", "config.yaml")
    if any((folder / m).is_file() for m in marks[1:]):
        return [folder]
    found = {p.parent for mark in marks for p in folder.glob(f"*/{mark}")}
    return sorted(p for p in found if not p.name.startswith("."))


def read(folder: Path, scheduler: dict[str, str] | None = None) -> Run:
    """What a run folder tells. `scheduler`: states that a cluster knows, by run folder name."""
    run = RunFolder(folder)
    result, lines = run.read_result(), run.read_metrics()
    overrides = multirun.read_job(folder).get("overrides", [])
    curve = [(m["step"], m["loss"]) for m in lines if "loss" in m]
    evaluated = [m["eval_loss"] for m in lines if "eval_loss" in m]
    if evaluated:
        loss, measured = evaluated[-1], "evaluation loss"
    else:
        tail = [value for _, value in curve[-max(1, round(len(curve) * SMOOTHED)) :]]
        loss, measured = (sum(tail) / len(tail) if tail else None), "training loss"
    status, error = str(result.get("status", "")), str(result.get("error", "") or "")
    if status in ("failed", "interrupted") and lines and lines[-1].get("step", 0) > int(result.get("step") or 0):
        status = error = ""  # written by an earlier attempt; the later one went further, and left no word
    if run.is_locked():
        status, error = "running", ""
    elif (state := (scheduler or {}).get(folder.name)) is not None and status != "completed":
        status, error = _with_scheduler(status, error, state)
    elif not status:
        status, error = ("failed", "it ended without a word") if lines else ("not run", "")
    return Run(
        folder.name,
        folder,
        status,
        {str(key).lstrip("+"): value for key, _, value in (o.partition("=") for o in overrides)},
        loss,
        measured,
        max(int(result.get("step") or 0), lines[-1].get("step", 0) if lines else 0),
        float(result.get("seconds") or (lines[-1].get("seconds", 0) if lines else 0)),
        " ".join(error.removeprefix("UserError: ").split())[:300],
        curve,
    )


def _with_scheduler(status: str, error: str, state: str) -> tuple[str, str]:
    """A run's status from what it wrote and from what the cluster says of its job."""
    if state in slurm_state.WAITING:
        return "waiting", error
    if state in slurm_state.ALIVE:
        return "running", ""
    if state == "UNKNOWN":
        known = "the cluster does not know the job (any more)"
        return (status, error) if status else ("failed", f"it ended without a word, and {known}")
    if state in ("COMPLETED", "FAILED") and status:
        return status, error
    if not status:
        status = "interrupted" if state in ("CANCELLED", "PREEMPTED", "TIMEOUT") else "failed"
    return status, "; ".join([*filter(None, [error]), f"the cluster says {state}"])


def ranked(runs: list[Run]) -> list[Run]:
    """Completed ones by their final loss, then the others."""
    return sorted(runs, key=lambda r: (r.status != "completed", r.loss is None, r.loss or 0.0, r.name))


def varying(runs: list[Run]) -> list[str]:
    """Parameters that are not the same in every run."""
    keys = list(dict.fromkeys(k for r in runs for k in r.parameters))
    return [k for k in keys if len({r.parameters.get(k) for r in runs}) > 1]


def table(runs: list[Run]) -> list[list[str]]:
    """Heading and rows for people."""
    keys = varying(runs)
    rows = [["", "loss", *keys, "status", "steps", "seconds", ""]]
    for i, run in enumerate(ranked(runs), 1):
        loss = "-" if run.loss is None else f"{run.loss:.4f}"
        values = [run.parameters.get(k, "") for k in keys]
        rows.append(
            [
                str(i) if run.status == "completed" else "-",
                loss,
                *values,
                run.status,
                str(run.steps),
                f"{run.seconds:.0f}",
                run.error or ("" if keys else run.name),
            ]
        )
    return rows


def text(runs: list[Run]) -> str:
    """The table in columns; a long error is cut to what a terminal shows."""
    rows = [[*row[:-1], row[-1][:80]] for row in table(runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def write(folder: Path, runs: list[Run]) -> None:
    """summary.csv, summary.html and the pictures in `folder`."""
    keys = varying(runs)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["rank", "run", "status", *keys, "loss", "measured", "steps", "seconds", "error"])
    for i, r in enumerate(ranked(runs), 1):
        values = [r.parameters.get(k, "") for k in keys]
        loss = "" if r.loss is None else r.loss
        writer.writerow([i, r.name, r.status, *values, loss, r.measured, r.steps, r.seconds, r.error])
    write_atomic(folder / "summary.csv", buffer.getvalue())
    page = Page(f"Runs in {folder.name}")
    page.text(_counted(runs))
    head, *rows = table(runs)
    page.table([tuple(row[:-1] if keys else row) for row in rows], tuple(head[:-1] if keys else head))
    if bad := [(r.name, r.status, r.error) for r in ranked(runs) if r.error]:
        page.heading("What did not complete")
        page.table(bad, ("run", "status", "error"))
    from alpaca import summary_plots

    for name, heading, figure in summary_plots.figures(ranked(runs), keys):
        page.heading(heading)
        page.picture(name, figure)
    page.write(folder, "summary.html")


def _counted(runs: list[Run]) -> str:
    statuses = list(dict.fromkeys(r.status for r in ranked(runs)))
    counts = ", ".join(f"{sum(r.status == s for r in runs)} {s}" for s in statuses)
    measured = " and ".join(sorted({r.measured for r in runs if r.loss is not None})) or "loss"
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {counts}; ranked by final {measured} (nats per token)"


def conclude(folder: Path, stopped_early: bool = False) -> int:
    """Summarise a sweep at its end: files, the table on stdout, the list of what failed. Returns the exit code.

    `stopped_early`: runs that were stopped on purpose are no failures.
    """
    states = slurm_state.states(folder)
    runs = [read(p, states) for p in find(folder)]
    if not runs:
        return 1
    write(folder, runs)
    console.say(f"\n{_counted(runs)}")
    print(text(runs), flush=True)
    console.say(f"\n{folder}/summary.html, summary.csv; again with  python -m alpaca.results {folder}")
    bad = [r for r in runs if r.status in ("failed", "not run") or r.status == "interrupted" and not stopped_early]
    if bad:
        console.say(f"\n{len(bad)} of {len(runs)} runs did not complete:")
        for run in bad:
            console.say(f"  {run.name}: {run.status}{f' ({run.error})' if run.error else ''}")
        console.say(f"the same command with sweep.resume={folder} runs what is missing")
    return 1 if bad else 0


def main() -> None:
    """python -m alpaca.results DIR: the summary of a sweep folder, as it stands now."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        raise UserError("python -m alpaca.results DIR: it takes the folder of a sweep, or of one run")
    folder = Path(sys.argv[1])
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: it takes the folder of a sweep, or of one run")
    if not find(folder):
        raise UserError(f"{folder} holds no run: it takes the folder of a sweep, or of one run")
    if find(folder) == [folder]:
        print(text([read(folder.resolve(), slurm_state.states(folder.resolve().parent))]))
        RunFolder(folder).plot()
        return
    conclude(folder)
