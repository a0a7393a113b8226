"""Answers that come while they are made: many askers, one thread that owns the model and decodes their rows together."""

import queue
import threading
import traceback
from collections.abc import Iterator

from alpaca.decoding import Decoder, Row, Sampling, Unsupported
from alpaca.errors import UserError
from alpaca.loaded import Answer, Loaded, read
from alpaca.wording import Wording


class Busy(Exception):
    """As many questions wait as may."""


class Stream:
    """One answer under way. Iterating gives its text so far, each time it has grown; `answer` is there at the end."""

    def __init__(self, row: Row, wording: Wording) -> None:
        self.row, self.answer = row, Answer("", "cancelled", 0)
        self._wording = wording
        self._news = threading.Semaphore(0)
        self._error: BaseException | None = None
        self._done = False
        row.heard = self._hear

    def _hear(self, ids: list[int]) -> bool:
        ended = self._wording.hears(ids)
        self._news.release()
        return ended

    def finish(self, answer: Answer | None = None, error: BaseException | None = None) -> None:
        """Called by the decoding thread."""
        if error is None:
            self.answer = answer or read(self.row, self._wording)
        self._error, self._done = error, True
        self._news.release()

    def cancel(self) -> None:
        """Stop after the token under way; what is there stays."""
        self.row.cancelled = True

    def wait(self) -> tuple[str, bool]:
        """(the text so far, whether it is all), once there is something new. Raises what went wrong."""
        self._news.acquire()
        while self._news.acquire(blocking=False):
            pass  # tokens that came meanwhile are shown together
        return self.now()

    def now(self) -> tuple[str, bool]:
        """The same without waiting."""
        if self._error is not None:
            raise self._error
        if self._done:
            return self.answer.text, True
        return self._wording.so_far(list(self.row.generated)), False

    def __iter__(self) -> Iterator[str]:
        shown, done = "", False
        while not done:
            text, done = self.wait()
            if len(text) > len(shown) or (done and text != shown):
                shown = text
                yield text


class Streams:
    """The desk where questions are left; `limit` is how many may wait while `capacity` are answered together."""

    def __init__(self, loaded: Loaded, capacity: int = 8, limit: int = 64) -> None:
        self.loaded, self.capacity, self.limit = loaded, capacity, limit
        self._inbox: queue.Queue[Stream] = queue.Queue()
        self._open: dict[int, Stream] = {}
        self._lock = threading.Lock()
        self._decoder: Decoder | None
        try:
            self._decoder = loaded.decoder(capacity)
        except Unsupported:
            self._decoder = None
        threading.Thread(target=self._work, name="decoding", daemon=True).start()

    def ask(self, question: list[int], sampling: Sampling) -> Stream:
        """Leave a question. Raises UserError where it is too long, Busy where too many wait."""
        row, wording = self.loaded.row(question, sampling, sampling.seed)
        row.exact = False  # its tokens are shown at once: they cannot be taken back
        stream = Stream(row, wording)
        with self._lock:
            if len(self._open) >= self.capacity + self.limit:
                raise Busy(f"{len(self._open)} questions are waiting already: try again in a moment")
            self._open[id(row)] = stream
        self._inbox.put(stream)
        return stream

    def _work(self) -> None:
        while True:
            self._take()
            try:
                if self._decoder is not None:
                    for row in self._decoder.step():
                        self._close(row)
            except BaseException as error:
                self._fail(error)

    def _take(self) -> None:
        """Questions from the inbox into the batch; sleeps while there is nothing to do."""
        idle = self._decoder is None or not self._decoder.busy
        while idle or not self._inbox.empty():
            stream = self._inbox.get()
            if self._decoder is not None and stream.row.sampling.num_beams == 1:
                self._decoder.add([stream.row])
                idle = False
            else:
                self._answer_whole(stream)

    def _answer_whole(self, stream: Stream) -> None:
        """For beams and for models whose state is not rows of keys and values: the text comes at the end."""
        row = stream.row
        try:
            for _, answer in self.loaded.answer_ids({0: row.prompt}, row.sampling, 1):
                stream.finish(answer)
        except BaseException as error:
            stream.finish(error=error)
        with self._lock:
            self._open.pop(id(row), None)

    def _close(self, row: Row) -> None:
        with self._lock:
            stream = self._open.pop(id(row))
        stream.finish()

    def _fail(self, error: BaseException) -> None:
        """A step failed: whoever was in the batch hears of it, and the next question finds an empty one."""
        if not isinstance(error, UserError):
            traceback.print_exception(error)
        assert self._decoder is not None
        taken = {id(r) for r in (*self._decoder.active, *self._decoder.waiting)}
        with self._lock:
            hit = [key for key, s in self._open.items() if key in taken or s.row.ended is not None]
            streams = [self._open.pop(key) for key in hit]
        self._decoder.waiting.clear()
        self._decoder.reset()
        for stream in streams:
            stream.finish(error=error)


def explain(error: BaseException) -> str:
    """What a person on the other side of a page or a wire is told: a line, and no trace."""
    if isinstance(error, (UserError, Busy)):
        return str(error)
    return f"the model failed ({type(error).__name__}); the server's log has the details"
