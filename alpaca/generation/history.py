"""What a journal tells of the runs before this one: whether it may go on, how each request ended, when it was done."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.generation.config import GenerateConfig
from alpaca.generation.journal import Journal
from alpaca.generation.order import Order, name_passages

_FIELDS = {
    "run": {"derive", "num_instructions"},
    "done": {"derive", "num_instructions"},
    "sent": {"ticket", "worst"},
    "free": {"ticket"},
    "gave_up": {"ticket"},
    "probe": {"ticket", "usage", "usd", "estimated"},
    "failed": {"request", "ticket", "reason", "said", "seconds"},
    "reply": {"request", "ticket", "id", "model", "format", "finish_reason", "usage", "usd", "estimated", "seconds", "text"},
}  # fmt: skip


class History:
    """The runs of a journal, and the entries by which this one adds itself to them."""

    def __init__(self, config: GenerateConfig, journal: Journal, order: Order | None) -> None:
        """`order`, of a corpus, is brought to where the journal is. Raises UserError where an entry is not whole."""
        _check_entries(journal)
        self.config, self.journal, self.order = config, journal, order
        self._runs = [e for e in journal.entries if e["kind"] == "run"]
        self._corpus = self._follow_corpus()
        self._kind = {"language": config.language, "source": config.source.name, "topic": config.topic}
        self._teacher = {
            "model": config.teacher.model,
            "base_url": (config.teacher.base_url or "").split("@")[-1],
        }
        self._target = {"derive": _derivation(config), "num_instructions": config.num_instructions}
        self.ends = self._ends()
        """How requests ended, in the order of time: entries `reply` and `failed`."""
        self.gave_up = max((e["ticket"] for e in journal.entries if e["kind"] == "gave_up"), default=0)
        """The newest ticket when a run last gave up; 0 where none did."""
        self._header: dict[str, Any] | None = None  # still to be written

    def go_on(self) -> bool:
        """Add this run; whether rows only need to be derived again from what is there.

        Such a run is added at its end, so that one that is interrupted derives again. Raises UserError where the journal
        is of another kind of run.
        """
        runs, derive_only = self._runs, False
        if runs:
            for key, value in self._kind.items():
                if runs[0].get(key) != value:
                    raise UserError(
                        f"{self.config.output} was begun with {key}={runs[0].get(key)}, now it is {value}: give another output=FILE, or restore it"
                    )
            self._check_corpus()
            more = self.config.num_instructions > max(r["num_instructions"] for r in runs)
            derive_only = bool(self.ends) and runs[-1]["derive"] != self._target["derive"] and not more
            replies = sum(e["kind"] == "reply" for e in self.ends)
            sent = sum(e["kind"] == "sent" for e in self.journal.entries)
            console.say(f"{self.journal.path}: {replies} replies replayed, {sent} requests so far")
            if others := sorted(self._teachers() - {self.config.teacher.model}):
                console.say(f"they are by {', '.join(others)}; what is missing is asked of {self.config.teacher.model}")
        passages = self.order.key if self.order else None
        header = {"kind": "run", **self._kind, "passages": passages, **self._target, **self._teacher}
        if not runs or runs[-1] != header:
            self._header = header
        if not derive_only:
            self._write_header()
        return derive_only

    def conclude(self, done: bool, gave_up_at: int | None) -> None:
        """Once the rows are written: that they were derived anew, are all there, or that the run gave up at a ticket."""
        self._write_header()
        if done and not self._is_done():
            self.journal.append({"kind": "done", **self._target})
        if gave_up_at is not None:
            self.journal.append({"kind": "gave_up", "ticket": gave_up_at})

    def _write_header(self) -> None:
        if self._header is not None:
            self.journal.append(self._header)
            self._header = None

    def _is_done(self) -> bool:
        """Whether an earlier run ended with all the rows that this one is to have."""
        return any(
            e["derive"] == self._target["derive"] and e["num_instructions"] >= self._target["num_instructions"]
            for e in self.journal.entries
            if e["kind"] == "done"
        )

    def _teachers(self) -> set[str]:
        """Models that replies were asked of, by the names in the settings."""
        found, now = set(), None
        for entry in self.journal.entries:
            if entry["kind"] == "run":
                now = entry.get("model")
            elif entry["kind"] == "reply" and now is not None:
                found.add(now)
        return found

    def _ends(self) -> list[dict[str, Any]]:
        """Replies, and what this teacher failed on; what another one failed on is asked again where rows are missing."""
        found, retry = [], self.config.retry_failed
        counts, done = not retry, self._is_done()
        for entry in self.journal.entries:
            if entry["kind"] == "run":
                same = all(entry.get(key, value) == value for key, value in self._teacher.items())
                counts = (done or same) and not retry
            elif entry["kind"] == "reply" or entry["kind"] == "failed" and counts:
                found.append(entry)
        return found

    def _follow_corpus(self) -> dict[str, Any] | None:
        """Find the order of requests in which the journal goes on. Returns an entry that the journal lacks, if any."""
        if self.order is None:
            return None
        lacking = name_passages(self.journal.entries, self.order)
        self.order.follow(self.journal.entries)
        return lacking

    def _check_corpus(self) -> None:
        """Say what of the corpus is gone. Raises UserError where that is all of it."""
        if (order := self.order) is None:
            return
        early = any(isinstance(reply.get("passage"), int) for reply in self.ends)
        if early or order.lost and order.lost == order.answered:
            raise UserError(
                f"{self.config.output} was begun with other passages than source.path={self.config.source.path} has now: restore the files, source.passage_tokens and source.min_passage_tokens, or give another output=FILE"
            )
        if order.lost:
            console.warn(
                f"{order.lost} of {order.answered} requests were about passages that are no longer in {self.config.source.path}: what they gave is left out; it stays in the journal, and counts again where the text is put back"
            )
        if self._corpus is not None:
            self.journal.append(self._corpus)


def _derivation(config: GenerateConfig) -> str:
    """A key of the settings that decide which rows come of the same replies."""
    settings = {"filters": asdict(config.filters), "dedupe": asdict(config.dedupe), "min_support": config.source.min_support}  # fmt: skip
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _check_entries(journal: Journal) -> None:
    for number, entry in enumerate(journal.entries, 1):
        if lacking := _FIELDS.get(entry["kind"], set()) - entry.keys():
            raise UserError(
                f"{journal.path}, line {number} lacks {', '.join(sorted(lacking))}: it was changed by hand; restore that line or remove it"
            )
