"""Rows in a process of their own: what parses and compares replies does not make the next requests wait.

One question at a time, answered in the order asked. The process ends with the one that began it, however that ends; it
writes nothing, so nothing is lost with it.
"""

import asyncio
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from alpaca.errors import UserError
from alpaca.generation.config import GenerateConfig
from alpaca.generation.corpus import Passage
from alpaca.generation.items import Item
from alpaca.generation.rows import Applied, Outcome, Rows, Wanting


@dataclass
class _Setup:
    config: GenerateConfig
    seeds: list[Item]
    passages: list[Passage]
    opening: str


class Reader:
    """`Rows` elsewhere; its methods are named and described there. Raises UserError when its process is gone."""

    def __init__(self, config: GenerateConfig, seeds: list[Item], passages: list[Passage], opening: str) -> None:
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._pipe, theirs = context.Pipe()
        setup = _Setup(config, seeds, passages, opening)
        self._process = context.Process(target=_serve, args=(setup, theirs, self._pipe), daemon=True)
        self._process.start()
        theirs.close()
        self._turn = asyncio.Lock()

    def wanting(self, replies: list[dict[str, Any]]) -> list[Wanting]:
        """`Rows.wanting_all`."""
        return self._call("wanting_all", replies)

    async def wanting_later(self, replies: list[dict[str, Any]]) -> list[Wanting]:
        """The same for an event loop, which goes on meanwhile."""
        return await self._call_later("wanting_all", replies)

    def count_after(self, ticket: float) -> None:
        """`Rows.count_after`."""
        self._call("count_after", ticket)

    def apply(self, requests: list[list[dict[str, Any]]]) -> list[Applied]:
        """`Rows.apply_all`."""
        return self._call("apply_all", requests)

    async def apply_later(self, requests: list[list[dict[str, Any]]]) -> list[Applied]:
        """The same for an event loop."""
        return await self._call_later("apply_all", requests)

    async def find_neighbours_later(self, most: int) -> None:
        """`Rows.find_neighbours` for an event loop."""
        await self._call_later("find_neighbours", most)

    def reasons(self) -> Counter[str]:
        """`Rows.reasons`."""
        return self._call("reasons")

    def outcome(self) -> Outcome:
        """`Rows.outcome`."""
        return self._call("outcome")

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _call(self, name: str, *arguments: Any) -> Any:
        self._ask(name, arguments)
        return self._answer()

    async def _call_later(self, name: str, *arguments: Any) -> Any:
        async with self._turn:
            self._ask(name, arguments)
            ready, loop = asyncio.Event(), asyncio.get_running_loop()
            loop.add_reader(self._pipe.fileno(), ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(self._pipe.fileno())
            return self._answer()

    def _ask(self, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            self._pipe.send((name, arguments))
        except OSError:
            raise self._gone() from None

    def _answer(self) -> Any:
        try:
            result, error = self._pipe.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if error is not None:
            raise error
        return result

    def _gone(self) -> UserError:
        self._process.join(5)
        code = self._process.exitcode
        why = f"signal {-code}, as when memory runs out" if code and code < 0 else f"exit code {code}"
        return UserError(
            f"the process that reads the replies has ended ({why}): every reply is saved; run the same command again"
        )


def _end_with(parent: Any) -> None:
    """Leave when the asking process is gone, whatever is being computed: nobody can take the result."""
    parent.join()
    os._exit(1)


def _serve(setup: _Setup, pipe: Connection, other_end: Connection) -> None:
    """Answer until nobody can ask any more."""
    other_end.close()  # else the pipe would stay open when the asking process is killed
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the other process, which ends this one
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    os.nice(5)  # sending comes first
    rows, broken = None, None
    try:
        rows = Rows(setup.config, setup.seeds, setup.passages, setup.opening)
        gc.freeze()  # the pool stays: no need to look through it again and again for garbage
    except Exception as error:
        broken = error
    try:
        while True:
            name, arguments = pipe.recv()
            result, failure = None, broken
            if failure is None:
                try:
                    result = getattr(rows, name)(*arguments)
                except Exception as error:
                    failure = error
            pipe.send((result, failure))
    except (EOFError, OSError):
        return
