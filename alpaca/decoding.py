"""Token ids to token ids, many rows at once: a row that ends leaves the batch and a waiting one takes its place.

No step computes a row that has ended, and the keys and values of what was read are kept. Knows no text and no files.

A row's greedy tokens can depend on its neighbours by rounding alone (matrix products of another shape add in another
order). Where two tokens are nearer to each other than that, the row is left `close`, for the caller to decode it alone.
"""

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alpaca import console
from alpaca.errors import UserError, first_line
from alpaca.slots import SlotCache, Unsupported, new_cache

if TYPE_CHECKING:
    import torch

ROUNDING = 2e-5
"""Two best logits nearer than this part of the largest may change places in fp32 when rows are computed together."""
PREFILL_TOKENS = 16_384
"""Most prompt tokens, padding included, that are read in one step."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy. Row i of a call draws from a stream of its own, seed + i."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    num_beams: int = 1
    max_new_tokens: int = 256
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 42


@dataclass(eq=False)
class Row:
    """A prompt on its way. `heard(ids)` is told every token so far and says whether a stop text is complete."""

    prompt: list[int]
    sampling: Sampling
    limit: int
    """Most new tokens."""
    seed: int = 42
    heard: Callable[[list[int]], bool] = lambda ids: False
    generated: list[int] = field(default_factory=list)
    ended: str | None = None
    """eos, stop, length, cancelled, or close (only with `exact`)."""
    cancelled: bool = False
    exact: bool = False
    """End as `close` where a neighbour's rounding could have changed a greedy choice."""
    mixed: bool = False
    """Whether it was ever computed beside another row."""
    _generator: Any = None

    def generator(self) -> "torch.Generator":
        """The row's own stream of random numbers."""
        import torch

        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self.seed % 2**63)
        return self._generator

    def restart(self) -> None:
        """Back to the prompt."""
        self.generated, self.ended, self.mixed, self._generator = [], None, False, None


class Decoder:
    """Rows that wait, and rows that are decoded together: at most `capacity`, halved when memory runs out."""

    def __init__(self, model: Any, ends: set[int], pad: int, capacity: int) -> None:
        self.model, self.ends, self.pad, self.capacity = model, ends, pad, capacity
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        known = inspect.signature(inner.forward).parameters
        self._positions, self._last_only = "position_ids" in known, "logits_to_keep" in known
        self.waiting: deque[Row] = deque()
        self.active: list[Row] = []
        self._ended: list[Row] = []  # in this step; they stay in `active` until another takes their place
        self._cache: Any = None
        self._mask: Any = None
        if "past_key_values" not in known:
            raise Unsupported("no past_key_values")
        new_cache(model.config)

    def add(self, rows: Sequence[Row]) -> None:
        """Queue rows, to be taken up in this order."""
        self.waiting.extend(rows)

    @property
    def busy(self) -> bool:
        """Whether a row waits or is under way."""
        return bool(self.waiting or self.active)

    def step(self) -> list[Row]:
        """One token for every active row, or the first one for rows that join. Returns the rows that ended."""
        import torch

        gone = self._drop_cancelled()
        self._clear_if_done()
        joining = self._next()
        try:
            with torch.inference_mode():
                if joining:
                    self._join(joining)
                elif self.active:
                    self._tidy()
                    self._advance()
        except Exception as error:
            self.waiting.extendleft(reversed(joining))
            if not is_out_of_memory(error):
                raise
            self._shrink([r for r in self.active if r not in joining], len(joining), error)
        ended, self._ended = self._ended, []
        self._clear_if_done()
        return gone + ended

    def _clear_if_done(self) -> None:
        if all(r.ended is not None for r in self.active):
            self.active, self._cache, self._mask = [], None, None

    def _next(self) -> list[Row]:
        """Waiting rows that there is room for. Prompts are read by the handful, which costs less than one by one."""
        running = sum(r.ended is None for r in self.active)
        free = self.capacity - running
        if running and free < min(len(self.waiting), max(1, self.capacity // 8)):
            return []
        rows: list[Row] = []
        width = 0
        while self.waiting and len(rows) < free:
            width = max(width, len(self.waiting[0].prompt))
            if rows and width * (len(rows) + 1) > PREFILL_TOKENS:
                break
            rows.append(self.waiting.popleft())
        return rows

    def _join(self, rows: list[Row]) -> None:
        """Read the prompts, padded on the left, and put what was read into the places of rows that ended."""
        import torch

        width = max(len(r.prompt) for r in rows)
        ids = torch.tensor([[self.pad] * (width - len(r.prompt)) + r.prompt for r in rows], device=self._device)
        mask = torch.tensor([[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in rows], device=self._device)
        read = new_cache(self.model.config)
        scores = self._forward(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), read)
        self._choose(scores, rows)
        if self._cache is None:
            self._cache = SlotCache(read)
            self._cache.arrange(None, read, width)
            self.active, self._mask = rows, mask
            return
        places = [i for i, r in enumerate(self.active) if r.ended is not None]
        width = max(self._needed(), width)
        self._mask, mask = _widen(self._mask, width), _widen(mask, width)
        if len(places) < len(rows):
            keep = torch.tensor([i for i, r in enumerate(self.active) if r.ended is None], device=self._device)
            self._cache.arrange(keep, read, width)
            self._mask = torch.cat([self._mask[keep], mask])
            self.active = [r for r in self.active if r.ended is None] + rows
            return
        slots = torch.tensor(places[: len(rows)], device=self._device)
        self._cache.replace(slots, read, width)
        self._mask[slots] = mask
        for place, row in zip(places, rows, strict=False):
            self.active[place] = row

    def _needed(self) -> int:
        """Columns that an active row still looks at."""
        running = [i for i, r in enumerate(self.active) if r.ended is None]
        used = self._mask[running].any(dim=0)
        return int(used.shape[0] - used.int().argmax()) if running else 0

    def _tidy(self) -> None:
        """Take rows that ended out once they are an eighth of the batch: it costs about as much as a step."""
        import torch

        keep = [i for i, r in enumerate(self.active) if r.ended is None]
        if len(self.active) - len(keep) < max(1, len(self.active) / 8):
            return
        width = self._needed()
        kept = torch.tensor(keep, device=self._device)
        self._cache.arrange(kept, None, width)
        self._mask = self._mask[kept, -width:]
        self.active = [self.active[i] for i in keep]

    def _advance(self) -> None:
        """One token for every active row."""
        import torch

        ids = torch.tensor([[(r.generated or [self.pad])[-1]] for r in self.active], device=self._device)
        mask = torch.cat([self._mask, self._mask.new_ones(len(self.active), 1)], dim=1)
        scores = self._forward(ids, mask, mask.sum(-1, keepdim=True) - 1, self._cache)
        self._mask = mask
        self._choose(scores, self.active)

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any) -> "torch.Tensor":
        options: dict[str, Any] = {"position_ids": positions} if self._positions else {}
        if self._last_only:
            options["logits_to_keep"] = 1
        output = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
        return output.logits[:, -1].float()

    def _choose(self, scores: "torch.Tensor", rows: list[Row]) -> None:
        """Append the next token of each row that goes on, and see whether that ends it."""
        groups: dict[Sampling, list[int]] = {}
        for i, row in enumerate(rows):
            row.mixed |= len(rows) > 1
            if row.ended is None:
                groups.setdefault(row.sampling, []).append(i)
        for sampling, numbers in groups.items():
            chosen = [rows[i] for i in numbers]
            tokens, near = pick(scores if len(chosen) == len(rows) else scores[numbers], chosen, sampling)
            for row, token, close in zip(chosen, tokens, near, strict=True):
                if close and row.exact and row.mixed:
                    row.ended = "close"
                else:
                    row.generated.append(token)
                    row.ended = self._end(row, token)
                if row.ended is not None:
                    self._ended.append(row)

    def _end(self, row: Row, token: int) -> str | None:
        if token in self.ends:
            return "eos"
        if row.heard(row.generated):
            return "stop"
        return "length" if len(row.generated) >= row.limit else None

    def _drop_cancelled(self) -> list[Row]:
        """Rows whose asker went away end here, whether they wait or are under way."""
        gone = [r for r in (*self.waiting, *self.active) if r.cancelled and r.ended is None]
        for row in gone:
            row.ended = "cancelled"
        if gone:
            self.waiting = deque(r for r in self.waiting if r.ended is None)
        return gone

    def _shrink(self, running: list[Row], joining: int, error: Exception) -> None:
        """After memory ran out: every row begins again, half as many at once. Raises UserError where that was one."""
        running = [r for r in running if r.ended is None]
        count = len(running) + joining
        self.reset()
        self.waiting.extendleft(reversed(running))
        for i in range(count):
            self.waiting[i].restart()
        if count <= 1:
            raise UserError(
                f"memory ran out with a single row of {len(self.waiting[0].prompt)} tokens ({first_line(error)}): "
                "shorten it, lower max_new_tokens, or load the weights smaller with quantize=nf4"
            ) from error
        self.capacity = max(1, count // 2)
        console.warn(f"memory ran out with {count} rows at once: going on with {self.capacity}")

    def reset(self) -> None:
        """Forget the active rows and their memory."""
        import torch

        self.active, self._ended, self._cache, self._mask = [], [], None, None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def _device(self) -> "torch.device":
        return self.model.get_input_embeddings().weight.device


def pick(scores: "torch.Tensor", rows: list[Row], sampling: Sampling) -> tuple[list[int], list[bool]]:
    """The next token of each row of scores, and whether a greedy choice was within rounding of another."""
    import torch
    from transformers.generation import logits_process as processors

    if sampling.repetition_penalty != 1.0:
        punish = processors.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
        told = [torch.tensor([r.prompt + r.generated], device=scores.device) for r in rows]
        scores = torch.cat([punish(ids, scores[i : i + 1]) for i, ids in enumerate(told)])
    if sampling.temperature == 0:
        best = scores.topk(2, dim=-1).values
        near = best[:, 0] - best[:, 1] <= ROUNDING * scores.abs().amax(dim=-1)
        return scores.argmax(dim=-1).tolist(), near.tolist()
    nothing: Any = None  # these three look at the scores alone
    scores = processors.TemperatureLogitsWarper(sampling.temperature)(nothing, scores)
    if sampling.top_k > 0:
        scores = processors.TopKLogitsWarper(min(sampling.top_k, scores.shape[-1]))(nothing, scores)
    if sampling.top_p < 1:
        scores = processors.TopPLogitsWarper(sampling.top_p)(nothing, scores)
    chances = scores.softmax(dim=-1).cpu()
    drawn = [int(torch.multinomial(chances[i], 1, generator=r.generator())) for i, r in enumerate(rows)]
    return drawn, [False] * len(rows)


def _widen(mask: "torch.Tensor", width: int) -> "torch.Tensor":
    """The last `width` columns, with zeros in front where there are fewer."""
    import torch

    missing = width - mask.shape[1]
    return mask[:, -width:] if missing <= 0 else torch.cat([mask.new_zeros(mask.shape[0], missing), mask], dim=1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or (a plain RuntimeError of torch) on a CPU."""
    import torch

    words = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error).lower() for w in words)
