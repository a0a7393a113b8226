"""task=judge: is this model better than that one, and how sure is that? By a language model, or by people's blind votes."""

import asyncio
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.errors import Interrupted, UserError
from alpaca.evaluation import asking, judge_estimate, judge_report, outcome, preference, sides, subject, tally
from alpaca.evaluation.config import EvaluateConfig
from alpaca.evaluation.instructions import guess
from alpaca.generation.journal import Journal


def judge(config: EvaluateConfig, run_dir: Path) -> None:
    """Print who is better and the table; judge.json, verdicts.jsonl (or votes.jsonl), a page and a picture go into `run_dir`."""
    pair = sides.pair(config)
    questions = subject.rows(config)
    if config.human:
        from alpaca.evaluation import voting

        voting.vote(config, pair, _rows(pair, questions, config, run_dir), run_dir)
        return
    language = config.judge.language
    if language == "auto":
        language = guess([q["instruction"] + q["input"] for q in questions])
    template = asking.Template(language, config.judge.prompt_file)
    run_dir.mkdir(parents=True, exist_ok=True)
    journal = Journal(run_dir / "verdicts.jsonl.journal", "hydra.run.dir=DIR")
    try:
        asked = asking.Judge(config, journal)
        if config.dry_run:
            judge_estimate.show(config, pair, questions, template, asked, run_dir)
            return
        rows = _rows(pair, questions, config, run_dir)
        asks = asking.both_orders(template, rows, tally.order(rows, config.seed))
        judge_estimate.say(config, asked, asks)
        asked.work(asks)
        _conclude(config, pair, rows, asks, asked, run_dir)
    except (KeyboardInterrupt, asyncio.CancelledError) as stop:
        raise Interrupted.by(
            stop, f"stopped: every verdict is in {journal.path}; run the same command again to go on"
        ) from None
    finally:
        journal.close()


def _rows(pair: tuple[sides.Side, sides.Side], questions: list[dict[str, Any]], config: EvaluateConfig, run_dir: Path) -> list[dict[str, Any]]:  # fmt: skip
    """Questions with `answer_a` and `answer_b`; says what makes a comparison unfair."""
    a, b = sides.answers(pair, questions, config, run_dir)
    for side in pair:
        if seen := sides.seen_in_training(side, questions):
            console.warn(f"{side.place} was trained on {seen} of the {len(questions)} questions: it has seen their answers")  # fmt: skip
    for side, said in zip(pair, (a, b), strict=True):
        if empty := sum(not t.strip() for t in said):
            console.warn(f"{empty} of the {len(said)} answers of {side.name} are empty")
    return [{**q, "answer_a": x, "answer_b": y} for q, x, y in zip(questions, a, b, strict=True)]


def _conclude(config: EvaluateConfig, pair: tuple[sides.Side, sides.Side], rows: list[dict[str, Any]], asks: list[asking.Ask], asked: asking.Judge, run_dir: Path) -> None:  # fmt: skip
    """The files, then the answer on stdout."""
    lines = tally.judged(rows, asks, asked)
    outcome.write_lines(run_dir / "verdicts.jsonl", lines)
    found = tally.figures(lines, config.seed)
    spent = vars(asked.budget.spent)
    bad = next((o for r in lines for o in r["orders"] if o["state"] not in ("read", "not asked")), None)
    if bad and not found["position_bias"]["judged_in_both_orders"]:
        said = " ".join((bad["text"] or "").split())[:120] or "nothing"
        raise UserError(f"no pair of verdicts could be read (one is {bad['state']}: {said!r}): the replies are in {run_dir / 'verdicts.jsonl'}; change judge.prompt_file, teacher.max_tokens or the judge, teacher.model=NAME")  # fmt: skip
    told = subject.settings(config) | {"versus": config.versus, "judge": config.teacher.model, "prompt_file": config.judge.prompt_file, "spent": spent}  # fmt: skip
    first = preference.sentence(pair[0].name, pair[1].name, found, len(rows))
    page = judge_report.page(first, found, lines, (pair[0].name, pair[1].name), config.teacher.model, spent)
    outcome.write(run_dir, "judge", told, found, page, also="judge.json")
    print(first)
    more = preference.needed([r["score"] for r in lines if r["score"] is not None])
    if more and more > found["judged"]:
        print(f"if the difference is real, about {more:,} questions would show it")
    for line in judge_report.notes(found, config.judge.reask):
        print(line)
    print()
    table = [preference.row("all", found), *(preference.row(c, f) for c, f in found["categories"].items())]
    outcome.print_table(table, preference.HEAD)
    outcome.done(run_dir, f"{spent['requests']:,} requests in all, ${spent['usd']:.4f}")
