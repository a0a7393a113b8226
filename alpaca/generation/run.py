"""The state of a run of data generation: what was asked, what came, what is applied, and what to ask next.

Determinism by construction: request i is a function of the config and i; replies are applied in the order of their
requests, not of their arrival; and how many requests are allowed is a function of the replies applied so far. So the
rows depend on the replies alone, not on faults, timing or interruptions.
"""

import asyncio
import gc
import itertools
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.generation.answers import Answers
from alpaca.generation.budget import Budget, BudgetReached
from alpaca.generation.config import GenerateConfig, prices
from alpaca.generation.estimate import estimate, requests_needed, say_estimate
from alpaca.generation.failures import Failures
from alpaca.generation.history import History
from alpaca.generation.items import Item
from alpaca.generation.journal import Journal
from alpaca.generation.progress import Progress
from alpaca.generation.reader import Reader
from alpaca.generation.requests import Request, Requests
from alpaca.generation.rows import Applied
from alpaca.generation.teacher import Stopped, Teacher, Unanswered

_AT_ONCE = 64  # rows whose neighbours are looked for while the teacher writes
_PAUSE = 0.1  # seconds without a reply after which they may be looked for
_PARSED_AT_ONCE = 256  # replies of a journal sent to the reading process together
_NEXT_TO_NOTHING = "Answer with one word: yes."
_LOOKAHEAD = 16  # requests asked ahead of the oldest unanswered one, for each one in flight


class Run:
    """The state of a run: what is answered, what is applied, how far it may ask."""

    def __init__(self, config: GenerateConfig, journal: Journal, requests: Requests, reader: Reader) -> None:
        self.config, self.journal, self.requests, self.reader = config, journal, requests, reader
        self.budget = Budget(config.budget, prices(config.teacher))
        self.history = History(config, journal, requests.order)
        self.budget.replay(journal.entries)
        self.answers = Answers(config.reask, requests.gone)
        self.kept: list[Item] = []
        self.barren, self.full = 0, False
        self._yields: list[int] = []  # rows that each request applied gave
        self.applied = 0
        self.limit = self.wanted = 0  # requests that may be asked by now, and that are needed as it looks now
        self.pool_sizes: list[int] = []  # request -> rows kept when it was decided on
        self.derive_only = False
        self._progress: Progress | None = None
        self._asked = 0
        self._stop: Exception | None = None
        self.stopped_by = signal.SIGTERM  # when its task is cancelled
        self._flying: set[asyncio.Task[None]] = set()
        self._unsynced: list[dict[str, Any]] = []  # replies that may not be on the disk yet
        self._unread: list[dict[str, Any]] = []  # replies on the disk that were not looked at yet
        self._again: deque[int] = deque()  # requests to be asked again
        self._failures = Failures()
        self._looking: asyncio.Task[None] | None = None
        self._with_neighbours = 0
        self._allow()

    def check_header(self) -> None:
        """Whether the journal is of this kind of run, and whether its rows only need to be derived again."""
        self.derive_only = self.history.go_on()
        self.reader.count_after(math.inf if self.derive_only else self.history.gave_up)

    def conclude(self) -> None:
        """Once the rows are written: journal how this run ended, for the next one."""
        gave_up = self.barren >= self.config.give_up_after and not self.full and self._stop is None
        self.history.conclude(
            len(self.kept) >= self.config.num_instructions, self.budget.last_ticket if gave_up else None
        )

    def _read_journal(self) -> None:
        """Which replies of earlier runs are worth asking again."""
        for start in range(0, len(self.history.ends), _PARSED_AT_ONCE):
            part = self.history.ends[start : start + _PARSED_AT_ONCE]
            self.answers.replay(part, self.reader.wanting(part))

    def apply(self, holes: bool = False) -> None:
        """Apply the replies that are next in the order of requests; with `holes`, past those that have no answer yet.

        Rows past a hole are for this run's file only: a run that goes on fills the hole and applies all of them anew.
        """
        while not self.ended():
            if holes and self.applied not in self.answers and self.answers.after(self.applied):
                self.applied += 1  # a hole that an interruption left; nothing is asked now
                continue
            if not (self.answers.complete(self.applied) or holes and self.applied in self.answers):
                return
            for result in self.reader.apply([self.answers.of(self.applied)]):
                self._applied(result)

    def _applied(self, result: Applied) -> None:
        self.kept += result.kept
        self.barren, self.full = result.barren, result.full
        if not result.gone and self.answers.of(self.applied)[-1]["ticket"] > self.history.gave_up:
            self._yields.append(len(result.kept))
        self.applied += 1
        self._allow()

    def ended(self) -> bool:
        """Enough rows, or no more to be had."""
        last = self.requests.last
        return self.full or self.barren >= self.config.give_up_after or last is not None and self.applied >= last

    def _allow(self) -> None:
        """How far may be asked: what is missing at the yield seen of late.

        `limit` is never lowered, for it decides which rows a request may show; `wanted` is what is sent of it.
        """
        most, items = self.config.teacher.concurrency, self.config.source.items
        missing, left = self.config.num_instructions - len(self.kept), self.config.give_up_after - self.barren
        needed = requests_needed(missing, self._yields[-4 * most :], items, self.applied, most)
        if self.barren >= left or self.history.gave_up and not any(self._yields):
            needed = min(needed, left)  # as it looks there is nothing to be had: no more than until it is given up
        self.wanted = self.applied + min(needed, _LOOKAHEAD * most)
        if self.requests.last is not None:
            self.wanted = min(self.wanted, self.requests.last)
        self.limit = max(self.limit, self.wanted)
        self.pool_sizes += [len(self.kept)] * (self.limit - len(self.pool_sizes))

    def replay(self) -> None:
        """Apply what earlier runs were answered."""
        self._read_journal()
        self.apply(holes=self.derive_only)

    async def work(self) -> UserError | None:
        """After `replay`: ask until there are enough rows. Returns what stopped it, if not that."""
        if self.ended() or self.derive_only:
            return self._ending()
        say_estimate(estimate(self.config, self.requests, self.config.num_instructions - len(self.kept), self.applied))
        self._progress = Progress(self.config.num_instructions)
        if (task := asyncio.current_task()) is not None:
            for number in stop_signals():
                asyncio.get_running_loop().add_signal_handler(number, self._interrupt, task, number)
        teacher = Teacher(self.config.teacher, self.budget, lambda entry: self.journal.append(entry, sync=False))
        syncing: set[asyncio.Task[None]] = set()
        reading: set[asyncio.Task[None]] = set()
        self._asked = self.applied
        gc.freeze()  # what is there stays: looking through it for garbage would make the replies wait
        try:
            self._launch(teacher)
            while going := {*self._flying, *syncing, *reading}:
                done, _ = await asyncio.wait(going, timeout=_PAUSE, return_when=asyncio.FIRST_COMPLETED)
                if not done and not reading:
                    self._look_for_neighbours()
                self._launch(teacher)
                syncing = _one(syncing, bool(self._unsynced), self._sync)
                reading = _one(reading, self._readable(), partial(self._read, teacher))
                if self._failures.aside and not (self._flying or syncing or reading):
                    self._decide(teacher)
            if self._looking is not None:
                await self._looking
        finally:
            self._progress.close()
            await teacher.close()
        if self._stop is not None and not isinstance(self._stop, (UserError, BudgetReached)):
            raise self._stop
        self.apply(holes=True)
        if isinstance(self._stop, BudgetReached):
            console.warn(
                f"{self._stop}: stopped with {len(self.kept)} of {self.config.num_instructions} rows; raise the budget and run the same command to go on"
            )
        return self._stop if isinstance(self._stop, UserError) else self._ending()

    def _interrupt(self, task: asyncio.Task[Any], number: signal.Signals) -> None:
        self.stopped_by = number
        task.cancel()

    def _launch(self, teacher: Teacher) -> None:
        """Send what is allowed; a request that is answered makes room at once, before its reply is looked at."""
        for task in [t for t in self._flying if t.done()]:
            error = task.exception()
            self._flying.remove(task)
            if isinstance(error, Exception) and not isinstance(error, Stopped) and self._stop is None:
                self._stop = error
                if not isinstance(error, BudgetReached):
                    teacher.stopping.set()
        if self.ended() or isinstance(self._stop, UserError):
            teacher.stopping.set()  # what waits to be sent, or sent again, is needed no more
        while self._stop is None and not self.ended() and len(self._flying) < self.config.teacher.concurrency:
            if self._failures.aside:
                return  # first it must be seen whether others are answered
            if (following := self._following()) is None:
                return
            self._flying.add(asyncio.create_task(self._ask(teacher, following)))

    def _following(self) -> int | None:
        """The request to send next: one to be asked again, else the next that has no answer yet."""
        if self._again:
            return self._again.popleft()
        while self._asked < self.wanted:
            self._asked += 1
            if self.answers.to_ask(self._asked - 1):
                return self._asked - 1
        return None

    def _readable(self) -> bool:
        """Whether a reply waits to be looked at, or to be applied."""
        return bool(self._unread) or not self.ended() and self.answers.complete(self.applied)

    def _next(self) -> list[int]:
        """The requests in a row that can be applied now, a few of them."""
        few, last = self.applied + self.config.teacher.concurrency, self.requests.last
        return list(
            itertools.takewhile(self.answers.complete, range(self.applied, few if last is None else min(few, last)))
        )

    async def _read(self, teacher: Teacher) -> None:
        """Look at what came and apply what is next; meanwhile the loop sends and receives."""
        while self._readable():
            if self._unread:
                waiting, self._unread = self._unread, []
                await self._look_at(waiting)
            else:
                for result in await self.reader.apply_later([self.answers.of(n) for n in self._next()]):
                    self._applied(result)
            self._launch(teacher)
            if self._progress is not None:
                self._progress.show(len(self.kept), self.applied, self.budget.spent)

    async def _sync(self) -> None:
        """Replies to the disk as they come, whatever is being read; only then they may be looked at."""
        while self._unsynced:
            waiting, self._unsynced = self._unsynced, []
            try:
                await asyncio.to_thread(self.journal.sync)
            except UserError as error:
                self._stop = self._stop or error
            self._unread += waiting

    async def _look_at(self, replies: list[dict[str, Any]]) -> None:
        """Whether replies complete their requests; those that do not are asked again."""
        self._again += self.answers.add(replies, await self.reader.wanting_later(replies))

    def _look_for_neighbours(self) -> None:
        """Use the time in which the teacher writes and nothing comes."""
        if not self.config.dedupe.nearest or self._looking is not None and not self._looking.done():
            return
        if len(self.kept) - self._with_neighbours >= _AT_ONCE:
            self._with_neighbours += _AT_ONCE
            self._looking = asyncio.create_task(self.reader.find_neighbours_later(_AT_ONCE))

    def _ask(self, teacher: Teacher, number: int) -> Coroutine[Any, Any, None]:
        request = self.requests.make(number, self.kept[: self.pool_sizes[number]])
        return self._one_reply(teacher, number, request)

    async def _one_reply(self, teacher: Teacher, number: int, request: Request) -> None:
        start = time.monotonic()
        try:
            reply = await teacher.ask(request.prompts)
        except Unanswered as error:
            if self._failures.own(number, error):
                self._failed(number, error, time.monotonic() - start)
            return
        self._again.extend(self._failures.answered(start))
        entry = {
            "kind": "reply", "request": number, **request.about, "ticket": reply.ticket, "id": reply.request_id,
            "model": reply.model, "format": self.config.teacher.reply_format, "finish_reason": reply.finish_reason,
            "usage": list(reply.usage), "usd": reply.usd, "estimated": reply.estimated, "seconds": reply.seconds,
            "attempts": reply.attempts, "max_tokens": reply.max_tokens, "opening": self.requests.opening,
            "time": round(time.time(), 3), "text": reply.text,
        }  # fmt: skip
        self.journal.append(entry, sync=False)
        self._unsynced.append(entry)

    def _failed(self, number: int, error: Unanswered, seconds: float) -> None:
        """Journal a request as answered with nothing, and go on."""
        passage = self.requests.passage(number)
        entry = {
            "kind": "failed", "request": number, **self.requests.about(number), "ticket": self.budget.new_ticket(),
            "reason": error.reason, "said": f"{passage.place}: {error.words}" if passage else error.words,
            "seconds": round(seconds, 3), "time": round(time.time(), 3),
        }  # fmt: skip
        self.journal.append(entry, sync=False)
        self._unsynced.append(entry)

    def _decide(self, teacher: Teacher) -> None:
        """Some failed, nothing was answered since, and nothing is in flight: see whether the teacher answers at all."""
        if self._stop is not None or self.ended():
            return
        error = next(iter(self._failures.aside.values()))
        if self.history.ends or self._failures.passed or self.requests.order is not None:
            self._flying.add(asyncio.create_task(self._probe(teacher, error)))
        else:
            self._stop = error

    async def _probe(self, teacher: Teacher, error: Unanswered) -> None:
        """Ask next to nothing, once. Raises `error` where that fails too."""
        start = time.monotonic()
        try:
            reply = await teacher.ask([_NEXT_TO_NOTHING], retries=0)
        except Unanswered:
            raise error from None
        entry = {"kind": "probe", "ticket": reply.ticket, "usage": list(reply.usage), "usd": reply.usd}
        self.journal.append(entry | {"estimated": reply.estimated}, sync=False)
        self._again.extend(self._failures.answered(start))

    def failed(self) -> list[str]:
        """What was said of each request, of those applied, that the teacher failed on."""
        last = [reply for number in range(self.applied) for reply in self.answers.of(number)[-1:]]
        return [e["said"] for e in last if e["kind"] == "failed" and e["request"] not in self.requests.gone]

    def _ending(self) -> UserError | None:
        kept, wanted = len(self.kept), self.config.num_instructions
        if kept >= wanted:
            return None
        order = self.requests.order
        used_up = order is not None and self.applied >= min(order.last, order.once)
        if self.barren >= self.config.give_up_after and not used_up:
            common = ", ".join(f"{reason}: {count}" for reason, count in self.reader.reasons().most_common(3))
            return UserError(
                f"the last {self.barren} replies gave no new row ({common}): {kept} of {wanted} rows are kept; change the prompt, the filters or the teacher, or raise give_up_after: the next run goes on from here and counts anew"
            )
        if self.derive_only:
            console.warn(
                f"filters or dedupe changed: {kept} of {wanted} rows derived from the journal, nothing was asked; run the same command again to ask for the rest"
            )
        elif used_up and (self.applied == self.requests.last or self.barren >= self.config.give_up_after):
            count = len(self.failed())
            failed = f", {count} of {self.applied} requests failed" if count else ""
            other = (
                ", or ask another teacher for what failed, or this one again with retry_failed=true" if count else ""
            )
            console.warn(
                f"the corpus is used up: {kept} of {wanted} rows{failed}; add text, or raise source.items or source.rounds{other}"
            )
        return None


def stop_signals() -> list[signal.Signals]:
    """What asks a run to stop, besides Ctrl-C: SIGTERM, and a terminal that is closed, unless `nohup` says to go on."""
    return [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]


def _one(running: set[asyncio.Task[None]], more: bool, work: Callable[[], Any]) -> set[asyncio.Task[None]]:
    """The task that runs, else a new one where there is `more` for it to do. Raises what ended the last one."""
    if any(not task.done() for task in running):
        return running
    for task in running:
        task.result()
    return {asyncio.create_task(work())} if more else set()
