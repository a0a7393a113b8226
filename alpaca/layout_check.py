"""Whether sequences laid end to end get what they get as rows of their own, in any number format. Knows no loss.

A model may count places from the start of the row that holds them all, and do something else beyond one of them. So
they are looked at once more behind as many tokens as a batch of the run has.

Losses of a model that knows nothing yet say little about its attention, and in 16 bits rounding hides the rest. So what
each token gets from every attention, and what it has at the end, is compared, while what is attended to is made to
depend on queries and keys (`probed`). How far apart equal ways are by rounding is measured on the model: the plain
padded batch against its rows one at a time, whose attention is off by a last bit.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch.nn import functional

from alpaca.data import MASKED
from alpaca.forward import Batch, Forward, Way, padded
from alpaca.padding_free import ATTENTION, positions

SHARPNESS = 2.0
"""Spread of the attention scores of vectors in random directions: enough that tokens attend to different ones."""
LAST_BIT = {"fp32": 2.0**-23, "half": 2.0**-8}
"""Relative; half: 16 bits, a quantised base or TF32."""
LEAST = {"fp32": 1e-4, "half": 0.03}
"""Relative distance that is rounding whatever was measured."""
MOST = 0.25
"""Relative distance that never is. Vectors that have nothing to do with each other are 1.4 apart."""
TIMES = 4.0
"""How many times as far as the plain ways are from each other another way may be from the nearer of them."""
SHARE = 0.9
"""Share of tokens that must be as near: a router of experts may send some elsewhere for a last bit."""
TOKENS = 256
"""Tokens of a batch that are compared, at most."""
States = list[torch.Tensor]
"""(tokens, width) of each attention in turn, where they can be seen: what it gives, and how large its queries and keys
are; and of what enters the output layer."""


class LayoutCheck:
    """What tokens have in the plain way through the model, to compare other ways with.

    `examples`: two flat batches that differ in tokens of their first sequence. The model is called once for each, and
    once for each sequence of the first.
    """

    def __init__(self, forward: Forward, model: Any, examples: list[Batch], context: Callable[[], Any], precision: str):
        self.forward, self.model, self.context, self.precision = forward, model, context, precision
        self.examples = first, second = examples[:2]
        ids, device = first["input_ids"][0], first["input_ids"].device
        self.kept = torch.linspace(0, len(ids) - 1, min(TOKENS, len(ids))).round().long().to(device)
        changed = (ids != second["input_ids"][0]).nonzero()[:, 0].tolist() or [len(ids)]
        within = self.kept < first["lengths"][0]
        self.apart = (~within | (self.kept < changed[0])).cpu()
        """Tokens before the ones that differ, or in other sequences."""
        self.after = (within & (self.kept > changed[-1])).cpu()
        self.plain = [self.states(Way(), example, self.kept) for example in self.examples]
        parts, start = [], 0
        for row in rows(first):
            end = start + row["lengths"][0]
            here = self.kept[(self.kept >= start) & (self.kept < end)] - start
            parts.append(self.states(Way(), row, here, LAST_BIT[precision]))
            start = end
        self.alone = [torch.cat(part) for part in zip(*parts, strict=True)]
        self.noise = [spread(d) for d in distances(self.alone, self.plain[0])]

    def states(self, way: Way, batch: Batch, kept: torch.Tensor, off: float = 0.0, few_logits: bool = False) -> States:
        """What the `kept` tokens of a flat batch have in a way; `off`: relative change of what attention gives.

        few_logits: the output layer is given those tokens alone.
        """
        flat = way.layout != "padded" and not (way.layout == "packed" and self.forward.too_long(batch))
        given = self.forward.inputs(way, batch) if flat else padded(batch)
        inputs = {name: value for name, value in given.items() if name not in ("labels", "label_index")}
        mask = None if flat else inputs["attention_mask"].flatten().nonzero()[:, 0]
        places = kept if mask is None else mask[kept]
        found: States = []

        def keep(values: torch.Tensor) -> None:
            values = values.detach().flatten(0, 1).flatten(1)  # (batch x positions, heads x width)
            found.append(values[places.to(values.device)])

        def enter(_: Any, values: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            keep(values[0])
            return (values[0][:, places.to(values[0].device)], *values[1:]) if few_logits else None

        hook = self.forward.base.get_output_embeddings().register_forward_pre_hook(enter)
        self.model.eval()  # nothing is dropped
        devices = [places.device] if places.is_cuda else []
        try:
            with torch.random.fork_rng(devices), torch.no_grad(), self.context(), probed(self.forward.base, keep, off):
                torch.manual_seed(0)
                self.model(**inputs, use_cache=False)
        finally:
            self.model.train()
            hook.remove()
        return found

    def fault(self, way: Way) -> str:
        """What is wrong with a way, or nothing. The model is called twice."""
        found, other = (self.states(way, example, self.kept) for example in self.examples)
        least = LEAST[self.precision]
        if reason := self.away(found):
            return reason
        moved, usual = distances(other, found), distances(self.plain[1], self.plain[0])
        if (
            self.apart.any()
        ):  # int8 rounds by the largest value of a batch, and experts are given other groups of tokens
            reached, plainly = (max(float(d[self.apart].max()) for d in pair) for pair in (moved, usual))
            if not reached <= 1e-6 + TIMES * plainly:
                return "tokens see others that come after them or are in other sequences"
        ours, plain = (d[-1][self.after] for d in (moved, usual))
        if len(plain) and plain.median() > least / 10 and not ours.median() >= plain.median() / TIMES:
            return "tokens do not see those before them"
        return ""

    def fault_behind(self, way: Way, tokens: int) -> str:
        """What is wrong with a way where the examples come behind so many tokens, or nothing. One call of the model."""
        batch = behind(self.examples[0], tokens)
        if way.layout == "packed" and self.forward.too_long(batch):  # longer ones are padded
            tokens = max(0, self.forward.base.config.max_position_embeddings - sum(self.examples[0]["lengths"]))
            batch = behind(self.examples[0], tokens)
        found = self.states(way, batch, self.kept + tokens, few_logits=True)
        reason = self.away(found)
        return reason and f"{reason} behind {tokens:,} tokens of the same batch"

    def away(self, found: States) -> str:
        """What says that states are not those of the plain way, or nothing."""
        near = [*map(torch.minimum, distances(found, self.plain[0]), distances(found, self.alone))]
        if len(near) > 1 and not (most := float(near[0].max())) <= MOST:  # no router came before the first attention
            return f"its first attention gives a token something else, by {most:.2g} of its size"
        for away, noise in zip(map(spread, near), self.noise, strict=True):
            if not away <= min(MOST, max(LEAST[self.precision], TIMES * noise)):
                return f"its hidden states differ by {away:.2g} of their size"
        return ""


def behind(batch: Batch, tokens: int) -> Batch:
    """A flat batch without labels behind `tokens` others: copies of itself, and at first the start of one."""
    ids, lengths = batch["input_ids"], batch["lengths"]
    copies, rest = divmod(tokens, sum(lengths))
    starts = [0, *accumulate(lengths)]
    cut = [min(n, rest - start) for n, start in zip(lengths, starts, strict=False) if rest > start]
    ids = torch.cat([ids[:, :rest], ids.repeat(1, copies + 1)], 1)
    all_lengths = cut + lengths * (copies + 1)
    return {
        "input_ids": ids,
        "position_ids": positions(all_lengths).to(ids.device),
        "labels": torch.full_like(ids, MASKED),
        "label_index": batch["label_index"][:0],
        "lengths": all_lengths,
        "pad_id": batch["pad_id"],
    }


def rows(batch: Batch) -> list[Batch]:
    """Each sequence of a flat batch as a flat batch, without its labels' places."""
    lengths: list[int] = batch["lengths"]
    common = {"pad_id": batch["pad_id"], "label_index": batch["label_index"][:0]}
    parts = zip(batch["input_ids"].split(lengths, 1), batch["labels"].split(lengths, 1), lengths, strict=True)
    return [common | {"input_ids": ids, "labels": labels, "lengths": [n]} for ids, labels, n in parts]


def distances(found: States, expected: States) -> list[torch.Tensor]:
    """Relative distance of each token's vectors: (tokens,) on the CPU for each of the states."""
    pairs = ((f.float(), e.float()) for f, e in zip(found, expected, strict=True))
    return [((f - e).norm(dim=1) / e.norm(dim=1).clamp(min=1e-12)).cpu() for f, e in pairs]


def spread(distances: torch.Tensor) -> float:
    """What `SHARE` of the distances do not exceed."""
    return float(distances.quantile(SHARE))


@contextmanager
def probed(model: Any, keep: Callable[[torch.Tensor], None], off: float) -> Iterator[None]:
    """Let what a token attends to depend on the directions of queries and keys, however small they are, and be kept.

    Of a model that has learned nothing the scores are nearly 0, and every attention is the mean of what is seen. Models
    that do not take their attention from transformers' interface are left as they are.
    """
    from transformers import AttentionInterface

    table = AttentionInterface._global_mapping
    before = dict(table)
    for name in {str(getattr(model.config, "_attn_implementation", None)), ATTENTION}:
        if name in before or name == "eager":
            AttentionInterface.register(name, probe(before.get(name, _eager), keep, off))
    try:
        yield
    finally:
        table.clear()
        table.update(before)


def _eager(module: Any, *inputs: Any, **options: Any) -> Any:
    """The attention that a model's own file defines beside it."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *inputs, **options)


def probe(function: Callable[..., Any], keep: Callable[[torch.Tensor], None], off: float) -> Callable[..., Any]:
    """An attention whose queries and keys are of one length, such that scores spread by `SHARPNESS`."""

    def attend(module: Any, query: torch.Tensor, key: torch.Tensor, *more: Any, **options: Any) -> Any:
        width = query.shape[-1]
        scale = abs(options.get("scaling") or width**-0.5)
        length = (SHARPNESS * width**0.5 / scale) ** 0.5
        sizes = [x.float().norm(dim=-1).transpose(1, 2) for x in (query, key)]
        query, key = (functional.normalize(x.float(), dim=-1).mul(length).to(x.dtype) for x in (query, key))
        values, weights = function(module, query, key, *more, **options)
        keep(values)
        keep(torch.cat(sizes, -1))  # which the scores no longer tell
        return values * (1 + off * torch.randn_like(values)) if off else values, weights

    return attend
