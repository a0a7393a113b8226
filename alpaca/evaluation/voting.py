"""task=judge human=true: the votes, the page while it is up, and the table when it ends (Ctrl-C, or SIGTERM)."""

import signal
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.evaluation import judge_report, outcome, preference, sides, subject
from alpaca.evaluation.config import EvaluateConfig
from alpaca.evaluation.votes import Votes
from alpaca.page import Page


def vote(config: EvaluateConfig, pair: tuple[sides.Side, sides.Side], rows: list[dict[str, Any]], run_dir: Path) -> None:  # fmt: skip
    """Serve the page until it is ended, then print the table. Raises UserError where the address is taken."""
    from alpaca.evaluation import vote_page

    names = (pair[0].name, pair[1].name)
    run_dir.mkdir(parents=True, exist_ok=True)
    votes = Votes(run_dir / "votes.jsonl", rows, config.seed)
    try:
        with console.results_only_on_stdout():
            page, address = vote_page.launch(votes, names, config.ui)
        already = f"; {votes.figures()['votes']} votes are there already" if votes.figures()["votes"] else ""
        console.say(f"{len(votes.numbers)} pairs to vote on at {address}{already}   (Ctrl-C ends it and prints the table)")  # fmt: skip
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with console.results_only_on_stdout():
                page.block_thread()
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)
            with console.results_only_on_stdout():
                page.close(verbose=False)
        conclude(config, names, votes, run_dir)
    finally:
        votes.close()


def conclude(config: EvaluateConfig, names: tuple[str, str], votes: Votes, run_dir: Path) -> None:
    """The page, the files, and the answer on stdout."""
    found = votes.figures()
    first = preference.sentence(*names, found, len(votes.rows))
    told = subject.settings(config) | {"versus": config.versus, "judge": "people"}
    outcome.write(run_dir, "votes", told, found, report(first, found, votes, names), also="judge.json")
    print(first)
    outcome.print_table(table(found), preference.HEAD)
    for line in notes(found):
        print(line)
    outcome.done(run_dir, f"{found['votes']:,} votes in {run_dir / 'votes.jsonl'}")


def table(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """All, each category, and each voter where there are several."""
    rows = [preference.row("all", found), *(preference.row(c, f) for c, f in found["categories"].items())]
    if len(found["voters"]) > 1:
        rows += [preference.row(f"voter {v}", f) for v, f in found["voters"].items()]
    return rows


def notes(found: dict[str, Any]) -> list[str]:
    """What stands under the table, each a line."""
    lines = [f"votes: {found['votes']} counted ({found['both_bad']} of them both bad, as ties), {found['skipped']} skipped"]  # fmt: skip
    if found["identical_answers"]:
        lines.append(f"identical answers: {found['identical_answers']} questions, not shown and not counted")
    if found["left_preferred_share"] is not None:
        lines.append(f"the left answer was preferred in {100 * found['left_preferred_share']:.0f} % of the votes for one side")  # fmt: skip
    for pair in found["agreement"]:
        kappa = "" if pair["kappa"] is None else f", kappa {pair['kappa']:.2f}"
        lines.append(f"{' and '.join(pair['voters'])} agree on {100 * pair['same']:.0f} % of {pair['questions']} questions{kappa}")  # fmt: skip
    return lines


def report(first: str, found: dict[str, Any], votes: Votes, names: tuple[str, str]) -> Page:
    """The report of people's votes."""
    made = judge_report.start(first, found, names)
    for line in notes(found):
        made.text(line[0].upper() + line[1:] + ".")
    made.text(
        "People voted without knowing whose answer is whose; sides were shuffled for each voter and question. The score of a "
        "question is the mean over its voters; intervals are 95 % by bootstrap over the questions."
    )
    if len(found["voters"]) > 1:
        made.heading("By voter")
        made.table([preference.row(v, f) for v, f in found["voters"].items()], preference.HEAD)
    return made
