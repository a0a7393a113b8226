"""Replies, in the order of their requests -> rows. The same replies give the same rows, whenever they came.

Nothing here asks anything: it is run over a journal as over replies that arrive.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from alpaca.errors import UserError
from alpaca.generation.config import GenerateConfig
from alpaca.generation.corpus import Passage, support
from alpaca.generation.dedupe import Pool
from alpaca.generation.filters import Filter
from alpaca.generation.items import Dropped, Item
from alpaca.generation.parse import parse

Wanting = Literal["unread", "cut"] | None


@dataclass
class Explained:
    """A dropped item: why, out of which request, and for a near-duplicate the instruction that it resembles."""

    request: int
    reason: str
    text: str
    resembles: str | None = None
    score: float | None = None


@dataclass
class Applied:
    """What the replies to one request gave. `barren`: such requests in a row that gave no row; `full`: no more wanted;
    `gone`: there were none, or their passage is no more."""

    kept: list[Item]
    barren: int
    full: bool
    gone: bool = False


@dataclass
class Outcome:
    """What a run leaves. `history`: a request each; `seeds`: the instructions that were there before."""

    rows: list[dict[str, Any]]
    dropped: list[Explained]
    history: list[dict[str, Any]]
    seeds: list[str]


class Rows:
    """What has been kept and dropped so far."""

    def __init__(self, config: GenerateConfig, seeds: list[Item], passages: list[Passage], opening: str) -> None:
        self.config, self.opening = config, opening
        self.passages = {passage.key: passage for passage in passages}
        self.pool = Pool(config.language, config.dedupe.threshold)
        self.known: list[str] = []
        for seed in seeds:
            self.pool.add(seed.instruction)
            self.known.append(seed.instruction)
        self.seeds = len(self.known)
        self.filter = Filter(config.filters, config.language)
        self.kept: list[Item] = []
        self.rows: list[dict[str, Any]] = []
        self.dropped: list[Explained] = []
        self.history: list[dict[str, Any]] = []
        self._with_neighbours = 0
        self._parsed: dict[int, list[Item | Dropped]] = {}
        self.barren = 0  # replies in a row without a new row
        self._counted_after: float = 0

    @property
    def full(self) -> bool:
        """Whether as many rows as asked for are kept."""
        return len(self.rows) >= self.config.num_instructions

    def reasons(self) -> Counter[str]:
        """How many items were dropped for each reason so far."""
        return Counter(d.reason for d in self.dropped)

    def count_after(self, ticket: float) -> None:
        """Replies up to this ticket do not count as barren: a run gave up after them, and another one goes on."""
        self._counted_after = ticket

    def apply(self, replies: list[dict[str, Any]]) -> Applied:
        """The replies to one request, the last attempt last: its items are kept or dropped, each on its own."""
        if not replies or self._gone(replies[0].get("passage")):
            return self._leave_out(replies)
        before, parsed, dropped = len(self.rows), 0, len(self.dropped)
        for reply in replies:
            if reply["kind"] == "failed":
                self.dropped.append(Explained(reply["request"], reply["reason"], reply["said"]))
                continue
            results = self.parsed(reply)
            items = [r for r in results if isinstance(r, Item)]
            parsed += len(items)
            for result in results:
                if self.full:
                    break
                if isinstance(result, Dropped):
                    self.dropped.append(Explained(reply["request"], result.reason, result.text))
                else:
                    self._judge(result, reply, len(items))
            del self._parsed[reply["ticket"]]
        reply, new = replies[-1], len(self.rows) - before
        if new or reply["ticket"] <= self._counted_after:
            self.barren = 0
        else:
            self.barren += 1
        self.history.append(
            {
                "request": reply["request"],
                "parsed": parsed,
                "kept": new,
                "dropped": Counter(d.reason for d in self.dropped[dropped:]),
                "time": reply.get("time"),
                "seconds": reply["seconds"],
            }
        )
        return Applied(self.kept[before:], self.barren, self.full)

    def _gone(self, passage: str | None) -> bool:
        return passage is not None and passage not in self.passages

    def _leave_out(self, replies: list[dict[str, Any]]) -> Applied:
        for reply in [r for r in replies if r["kind"] == "reply"]:
            for result in self.parsed(reply) if not self.full else []:
                self.dropped.append(Explained(reply["request"], "its passage is gone", _text(result)))
            self._parsed.pop(reply["ticket"], None)
        return Applied([], self.barren, self.full, gone=True)

    def apply_all(self, requests: list[list[dict[str, Any]]]) -> list[Applied]:
        """`apply` to one request after the other, until no more is wanted."""
        results: list[Applied] = []
        for replies in requests:
            if self.full or self.barren >= self.config.give_up_after:
                break
            results.append(self.apply(replies))
        return results

    def _judge(self, item: Item, reply: dict[str, Any], siblings: int) -> None:
        text = _text(item)
        reason = self.filter.reason(item)
        place: dict[str, Any] | None = None
        if reason is None and reply.get("passage") is not None:
            reason, place = self._grounded(item, reply["passage"])
        if reason is not None:
            self.dropped.append(Explained(reply["request"], reason, text))
            return
        if (match := self.pool.match(item.instruction)) is not None:
            reason = "resembles a seed" if match.row < self.seeds else "resembles a kept row"
            self.dropped.append(Explained(reply["request"], reason, text, self.known[match.row], round(match.score, 4)))
            return
        try:
            self.pool.add(item.instruction)
        except UserError:  # it cannot be compared
            self.dropped.append(Explained(reply["request"], "instruction too long", text))
            return
        self.known.append(item.instruction)
        self.kept.append(item)
        row: dict[str, Any] = {
            "instruction": item.instruction,
            "input": item.input,
            "output": item.output,
            "teacher": reply["model"],
            "request": reply["request"],
            "request_id": reply["id"],
            "tokens": round(sum(reply["usage"]) / siblings, 2),
            "usd": round(reply["usd"] / siblings, 8),
        }
        self.rows.append(row | ({"source": place} if place else {}))

    def _grounded(self, item: Item, key: str) -> tuple[str | None, dict[str, Any] | None]:
        passage = self.passages[key]
        share = support(passage.text, item.instruction + " " + item.input, item.output, self.config.language)
        if share < self.config.source.min_support:
            return "support too weak", None
        return None, {"file": passage.file, "start": passage.start, "end": passage.end, "support": round(share, 3)}

    def find_neighbours(self, most: int | None = None, workers: int = 1) -> None:
        """Give the next rows without them, `most` at once, their most similar instructions, of the seeds and of the
        rows kept before each, and their mean."""
        settings, begin = self.config.dedupe, self._with_neighbours
        rows = self.rows[begin:][:most]
        if not rows or not settings.nearest:
            return
        places = [self.seeds + begin + i for i in range(len(rows))]
        found = self.pool.nearest_of([r["instruction"] for r in rows], places, settings.nearest, workers)
        for row, (nearest, mean) in zip(rows, found, strict=True):
            row["most_similar_instructions"] = [
                {"instruction": self.known[m.row], "score": round(m.score, 4)} for m in nearest
            ]
            if settings.mean:
                row["avg_similarity_score"] = round(mean, 6)
        self._with_neighbours += len(rows)

    def outcome(self) -> Outcome:
        """All of it, every row with its neighbours."""
        self.find_neighbours(workers=-1)
        return Outcome(self.rows, self.dropped, self.history, self.known[: self.seeds])

    def parsed(self, reply: dict[str, Any]) -> list[Item | Dropped]:
        """What a journalled reply holds; parsed once."""
        if reply["ticket"] not in self._parsed:
            cut = ended_for_length(reply)
            opening = reply.get("opening", self.opening)
            results = parse(reply["text"], reply["format"], cut, opening)
            if reply["finish_reason"] == "content_filter" and not any(isinstance(r, Item) for r in results):
                results = [Dropped("refused by the service", reply["text"])]
            self._parsed[reply["ticket"]] = results
        return self._parsed[reply["ticket"]]

    def wanting(self, reply: dict[str, Any]) -> Wanting:
        """Why a reply may be worth asking again: nothing could be read, or it ended early though more was allowed."""
        if reply["kind"] == "failed" or reply["finish_reason"] == "content_filter":
            return None
        if ended_for_length(reply):
            return "cut" if reply["usage"][1] < 0.9 * reply.get("max_tokens", 0) else None
        return None if any(isinstance(r, Item) for r in self.parsed(reply)) else "unread"

    def wanting_all(self, replies: list[dict[str, Any]]) -> list[Wanting]:
        """`wanting` of each."""
        return [self.wanting(reply) for reply in replies]


def _text(item: Item | Dropped) -> str:
    return item.text if isinstance(item, Dropped) else f"{item.instruction}\n{item.input}\n{item.output}".strip()


def ended_for_length(reply: dict[str, Any]) -> bool:
    """Whether a reply was cut: the server says so, or says nothing and counted as many tokens as were allowed."""
    reason = reply["finish_reason"].lower()
    return reason in ("length", "max_tokens") or (
        not reason and not reply["estimated"] and reply["usage"][1] >= reply.get("max_tokens", float("inf"))
    )
