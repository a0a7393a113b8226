"""The judge is asked about pairs of answers, each pair in both orders. Every reply is on disk before it is read.

A question is known by the judge's model and the whole text that is sent, so that what was paid for once is not asked
again, and nothing old is taken for the answer to something new. Knows no runs and no figures.
"""

import asyncio
import hashlib
import re
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.evaluation import verdict
from alpaca.evaluation.config import EvaluateConfig
from alpaca.generation.budget import Budget, BudgetReached
from alpaca.generation.config import prices
from alpaca.generation.journal import Journal
from alpaca.generation.progress import Progress
from alpaca.generation.teacher import Stopped, Teacher, TooLong

_PROMPTS = Path(__file__).parent / "prompts"
_PLACES = ("question", "instruction", "input", "reference", "first", "second")


@dataclass(frozen=True)
class Ask:
    """Question `number` with the answer of side `first` (a or b) in front."""

    number: int
    first: str
    prompt: str


class Template:
    """The text that the judge gets, from a file. Raises UserError where it has no place for what is judged."""

    def __init__(self, language: str, file: str | None) -> None:
        path = Path(file) if file else _PROMPTS / f"judge_{'zh' if language == 'zh' else 'en'}.txt"
        try:
            self.text = path.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"judge.prompt_file={path} cannot be read ({error}): give a text file in UTF-8") from None
        lacking = [n for n in ("{first}", "{second}") if n not in self.text]
        lacking += [] if "{question}" in self.text or "{instruction}" in self.text else ["{question}"]
        if lacking:
            raise UserError(f"judge.prompt_file={path} lacks {' and '.join(lacking)}: the text must say where it goes")
        if "{question}" not in self.text and "{input}" not in self.text:
            console.warn(f"judge.prompt_file={path} has no {{question}} and no {{input}}: the judge is shown no input")

    def fill(self, row: dict[str, Any], first: str, second: str) -> str:
        """The prompt of a row with two answers, in one pass: braces inside them stay as they are."""
        values = {
            "question": f"{row['instruction']}\n\n{row['input']}".strip(),
            "instruction": row["instruction"], "input": row["input"], "reference": row["output"],
            "first": first.strip(), "second": second.strip(),
        }  # fmt: skip
        text = re.sub("{(" + "|".join(_PLACES) + ")}", lambda m: values[m[1]], self.text)
        return text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent


class Judge:
    """The journal of a judge, and what its entries say."""

    def __init__(self, config: EvaluateConfig, journal: Journal) -> None:
        self.config, self.journal = config, journal
        self.budget = Budget(config.budget, prices(config.teacher))
        self.budget.replay(journal.entries)
        self.too_long: set[str] = set()
        self._done = 0
        self._replies: dict[str, list[dict[str, Any]]] = {}
        for entry in journal.entries:
            if entry["kind"] == "reply":
                self._replies.setdefault(entry["key"], []).append(entry)

    def key(self, ask: Ask) -> str:
        """What an ask is known by."""
        return hashlib.sha256(f"{self.config.teacher.model}\0{ask.prompt}".encode()).hexdigest()[:24]

    def reply(self, ask: Ask) -> tuple[verdict.Verdict | None, dict[str, Any]] | None:
        """The verdict (None: it cannot be read) and the entry it stands in; None where nothing was answered yet."""
        entries = self._replies.get(self.key(ask), [])
        read = [(verdict.read(e["text"], e["finish_reason"] == "length"), e) for e in entries]
        return next((r for r in reversed(read) if r[0]), read[-1] if read else None)

    def wanting(self, ask: Ask) -> bool:
        """Whether an ask is to be sent: nothing can be read, and it was not asked often enough."""
        key = self.key(ask)
        if key in self.too_long:
            return False
        found = self.reply(ask)
        return found is None or found[0] is None and len(self._replies[key]) <= self.config.judge.reask

    def work(self, asks: list[Ask]) -> None:
        """Ask what is wanting. A budget that is reached ends it with a warning; raises UserError for other ends."""
        waiting = {self.key(a): a for a in asks if self.wanting(a)}  # the same pair may stand in two rows
        if len(waiting) < len(asks):
            console.say(f"{self.journal.path}: {len(asks) - len(waiting)} of {len(asks)} verdicts are there already")
        if waiting:
            asyncio.run(self._work(list(waiting.values())))

    async def _work(self, waiting: list[Ask]) -> None:
        if (task := asyncio.current_task()) is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        teacher = Teacher(self.config.teacher, self.budget, lambda entry: self.journal.append(entry, sync=False))
        progress, left, ends = Progress(len(waiting), "verdict"), iter(waiting), list[Exception]()
        try:
            count = min(self.config.teacher.concurrency, len(waiting))
            await asyncio.gather(*(self._worker(teacher, left, ends, progress) for _ in range(count)))
        finally:
            progress.close()
            await teacher.close()
        if ends:
            if not isinstance(ends[0], BudgetReached):
                raise ends[0]
            console.warn(f"{ends[0]}: raise the budget and run the same command to go on")

    async def _worker(self, teacher: Teacher, left: Iterator[Ask], ends: list[Exception], progress: Progress) -> None:  # fmt: skip
        for ask in left:
            while not ends and self.wanting(ask):
                try:
                    await self._one(teacher, ask)
                except Stopped:
                    return
                except TooLong:
                    self.too_long.add(self.key(ask))
                except Exception as error:  # the others end their requests, which are paid for
                    ends.append(error)
                    if not isinstance(error, BudgetReached):
                        teacher.stopping.set()
            if ends:
                return
            self._done += 1
            progress.show(self._done, self._done, self.budget.spent)

    async def _one(self, teacher: Teacher, ask: Ask) -> None:
        reply = await teacher.ask([ask.prompt])
        entry = {
            "kind": "reply", "key": self.key(ask), "judge": self.config.teacher.model, "first": ask.first,
            "ticket": reply.ticket, "id": reply.request_id, "model": reply.model, "finish_reason": reply.finish_reason,
            "usage": list(reply.usage), "usd": reply.usd, "estimated": reply.estimated, "seconds": reply.seconds,
            "attempts": reply.attempts, "max_tokens": reply.max_tokens, "time": round(time.time(), 3), "text": reply.text,
        }  # fmt: skip
        await asyncio.to_thread(self.journal.append, entry)
        self._replies.setdefault(entry["key"], []).append(entry)  # type: ignore[arg-type]


def both_orders(template: Template, rows: list[dict[str, Any]], numbers: Iterable[int]) -> list[Ask]:
    """Two asks for each of the rows `numbers`, one after the other; rows hold `answer_a` and `answer_b`."""
    asks = []
    for number in numbers:
        row = rows[number]
        texts = {"a": row["answer_a"], "b": row["answer_b"]}
        for first, second in (("a", "b"), ("b", "a")):
            asks.append(Ask(number, first, template.fill(row, texts[first], texts[second])))
    return asks
