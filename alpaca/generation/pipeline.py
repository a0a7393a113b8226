"""A run of data generation from its config to its files. What happens in between is `run`'s."""

import asyncio
import json
import shlex
import signal
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from alpaca import console
from alpaca.errors import Interrupted, UserError
from alpaca.generation import passage_index
from alpaca.generation.config import GenerateConfig
from alpaca.generation.corpus import Passage, read_corpus
from alpaca.generation.estimate import print_estimate
from alpaca.generation.items import Item
from alpaca.generation.journal import Journal, write_beside
from alpaca.generation.passage_index import Index
from alpaca.generation.reader import Reader
from alpaca.generation.requests import Requests, read_items
from alpaca.generation.run import Run, stop_signals


def generate(config: GenerateConfig) -> None:
    """Generate, resume or continue `config.output`. Raises UserError; whatever happens, no reply is lost."""
    before = {number: signal.signal(number, _terminate) for number in stop_signals()}
    try:
        _generate(config)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name} before anything was asked", 128 + number)


def _generate(config: GenerateConfig) -> None:
    seeds, passages, counted, index = read_source(config)
    requests = Requests(config, seeds, passages)
    if config.dry_run:
        if journal_path(Path(config.output)).exists():
            console.say(f"{journal_path(Path(config.output))} holds replies: they come first, so that less is asked")
        print_estimate(config, requests)
        return
    against = [item for path in config.dedupe.against for item in read_items(Path(path))]
    output = Path(config.output)
    if output.exists() and not journal_path(output).exists():
        raise UserError(
            f"output={output} is there already, without the journal of a run ({journal_path(output).name}): it would be replaced; give another output=FILE, or move it away"
        )
    # begun before the journal is opened, for a process that inherited its lock would hold it
    reader = Reader(config, seeds + against, passages, requests.opening)
    journal: Journal | None = None
    run: Run | None = None
    try:
        journal = Journal(journal_path(output))
        run = Run(config, journal, requests, reader)
        run.check_header()
        if index is not None:  # not before: a mistaken command is refused, and leaves the one of the run as it is
            passage_index.save(passages_path(output), index)
        run.replay()  # outside of the event loop, where Ctrl-C would wait for its end
        ending = asyncio.run(run.work())
        for number in stop_signals():
            signal.signal(number, _terminate)  # the event loop took them
        finish(config, run, counted)
        run.conclude()
        if isinstance(ending, UserError):
            raise ending
    except (KeyboardInterrupt, asyncio.CancelledError, Interrupted) as stop:
        kept = len(run.kept) if run else 0
        code = 130 if isinstance(stop, KeyboardInterrupt) else 128 + (run.stopped_by if run else signal.SIGTERM)
        raise Interrupted(
            f"stopped: every reply is in {journal_path(output)}; run the same command again to go on, or with num_instructions={max(kept, 1)} for the {kept} rows of so far",
            stop.code if isinstance(stop, Interrupted) else code,
        ) from None
    finally:
        reader.close()
        if journal is not None:
            journal.close()


def journal_path(output: Path) -> Path:
    """Beside the rows, and by its name no part of the data set."""
    return output.with_name(f"{output.name}.journal")


def passages_path(output: Path) -> Path:
    """Where the passages of a corpus were found."""
    return output.with_name(f"{output.name}.passages")


def read_source(config: GenerateConfig) -> tuple[list[Item], list[Passage], dict[str, int], Index | None]:
    """Seed tasks, or passages with how many were dropped for each reason, and a new index of them, if any."""
    path, source = Path(config.source.path), config.source
    if source.name == "corpus":
        index = None if config.dry_run else passages_path(Path(config.output))
        passages, dropped, new = read_corpus(
            path, config.language, source.passage_tokens, source.min_passage_tokens, index
        )
        console.say(f"{len(passages)} passages of {path}; dropped: {dict(dropped) or 'none'}")
        return [], passages, dict(dropped), new
    seeds = read_items(path)
    if not seeds and source.examples:
        raise UserError(f"source.path={path} holds no row: give seed tasks, or source.examples=0")
    return seeds, [], {}, None


def finish(config: GenerateConfig, run: Run, passages_dropped: dict[str, int]) -> None:
    """Write the rows, what was dropped, and the report; print the figures."""
    rows, output, spent, failed = run.reader.outcome(), Path(config.output), run.budget.spent, run.failed()
    if output.suffix == ".json":
        text = json.dumps(rows.rows, ensure_ascii=False, indent=1)
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.rows)
    write_beside(output, text)
    explained = "".join(json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in rows.dropped)
    write_beside(output.with_name(f"{output.name}.dropped"), explained)
    figures = {
        "output": str(output),
        "rows": len(rows.rows),
        "asked": config.num_instructions,
        "replies": len(rows.history),
        "failed": len(failed),
        "spent": asdict(spent),
        "dropped": dict(run.reader.reasons().most_common()),
        "passages_dropped": passages_dropped,
    }
    if config.report:
        from alpaca.generation.report import write_report

        write_report(config, rows, figures)
    print(json.dumps(figures, ensure_ascii=False))
    if spent.uncounted:
        console.warn(f"{spent.uncounted} replies came without `usage`: their tokens and cost are counted at their most")
    if failed:
        said = [words + (f" ({n} times)" if n > 1 else "") for words, n in Counter(failed).items()]
        more = f"; and {len(said) - 3} more, in {output.name}.dropped" if len(said) > 3 else ""
        console.warn(
            f"{len(failed)} of {len(rows.history)} requests failed and gave nothing: {'; '.join(said[:3])}{more}"
        )
    following = f"; next: python train.py data=custom {shlex.quote(f'data.path={output}')}" if rows.rows else ""
    console.say(f"{len(rows.rows)} rows in {output}{following}")
