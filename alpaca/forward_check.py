"""Whether a way through the model gives the losses of the plain padded batch, tried on two rows. Knows no family."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from alpaca import console, padding_free, varlen
from alpaca.data import MASKED
from alpaca.dropout import PaddedDropout
from alpaca.errors import UserError
from alpaca.forward import Batch, Forward, Layout, NotUsable, Way, takes_positions

TOLERANCE = {"fp32": 1e-5, "half": 0.02}
"""Largest mean difference of a label's loss, relative to 1 + the mean loss; half: 16 bits or a quantised base."""
Vote = Callable[[bool], bool]
Context = Callable[[], AbstractContextManager[Any]]


def choose(
    forward: Forward,
    model: Any,
    examples: list[Batch],
    context: Context,
    agreed: Vote,
    quiet: bool = False,
    kernels: Callable[[Any], str] | None = None,
) -> None:
    """Set the best way whose losses on two examples are the plain ones, and say which it is.

    kernels: exchanges parts of the model for quicker ones, or says why not; the losses must be those from before.
    examples: `check_examples` on the model's device; context: autocast as in training; agreed: whether all processes
    say yes. Every process calls the model the same number of times.
    """
    check = Check(forward, model, examples, context, agreed)
    heads = [Way("padded", "chunked")] if forward.head is not None else []
    heads += [Way("padded", "gathered")] if takes_positions(forward.base) else []
    way = next((way for way in heads if check.passes(way)), Way())
    layouts: list[Layout] = ["packed"]
    if padding_free.can_attend(forward.base, forward.max_length):
        layouts.insert(0, "sequences")
    before = getattr(forward.base.config, "_attn_implementation", None)
    for layout in layouts:
        if layout == "sequences":
            varlen.switch(on=True)
            padding_free.use_attention(forward.base)
        good = check.passes(replace(way, layout=layout))
        if not good and layout == "sequences" and agreed(varlen.installed() is not None):
            varlen.switch(on=False)  # a kernel of this version may be at fault: sequence by sequence
            good = check.passes(replace(way, layout=layout))
        if good:
            way = replace(way, layout=layout)
            break
        if layout == "sequences":
            forward.base.set_attn_implementation(before)
    forward.way, forward.drops, forward.reason = way, check.dropped, check.reason
    if kernels is not None and not (reason := kernels(model)):
        if not check.passes(way):
            raise UserError(f"Liger's kernels change this model's losses ({check.reason}): use training.liger=false")
        way_of_kernels = "Liger's kernels: same losses as without them"
    elif kernels is not None:
        way_of_kernels = f"notice: no kernels of Liger's, for {reason}"
    else:
        way_of_kernels = ""
    if way_of_kernels and not quiet:
        console.say(way_of_kernels)
    if quiet:
        return
    if way.layout == "padded" or way.head != "chunked":
        console.say(f"notice: this model goes the slower way of {way}, for on the quicker one {check.reason}")
    else:
        console.say(f"{way}: same losses as plain padded batches (within {check.difference:.0e} nats on two rows)")


def check_examples(dataset: Any, collate: Callable[[list[dict[str, Any]]], Batch], beyond: int = 0) -> list[Batch]:
    """What `choose` takes: two short rows that have labels, and the same with the first one's tokens reversed.

    beyond: the second has more tokens than this, where a row has: of a window in attention shorter rows show nothing.
    """
    dataset = getattr(dataset, "examples", dataset)  # of packed rows
    places = [*range(min(64, len(dataset)))]
    if beyond and hasattr(dataset, "lengths"):
        places += np.flatnonzero(np.asarray(dataset.lengths) > beyond)[:64].tolist()
    found = [e for e in map(dataset.__getitem__, places) if _learns(e)]
    if not found:  # the first rows are all cut before their response
        found = list(islice(filter(_learns, map(dataset.__getitem__, range(len(dataset)))), 2))
    found = sorted(found or [dataset[0]], key=lambda e: len(e["input_ids"]))
    first = found[0]
    least = max(len(first["input_ids"]), beyond)
    second = next((e for e in found if len(e["input_ids"]) > least), found[-1])
    turned = first | {"input_ids": first["input_ids"][::-1]}
    return [collate([first, second]), collate([turned, second])]


def _learns(example: dict[str, Any]) -> bool:
    return bool((example["labels"][1:] != MASKED).any())


class Check:
    """Losses of two examples in a way, against the plain padded batch, and their independence of each other."""

    def __init__(self, forward: Forward, model: Any, examples: list[Batch], context: Context, agreed: Vote) -> None:
        self.forward, self.model, self.context, self.agreed = forward, model, context, agreed
        self.examples = examples
        self.reason, self.difference, self.dropped = "", 0.0, False
        model.train()
        self.expected = [self.losses(Way(), example) for example in examples]
        labels = examples[0]["label_index"]
        self.second = labels >= examples[0]["lengths"][0] - 1
        with context():
            half = torch.is_autocast_enabled(labels.device.type) or getattr(forward.base, "is_quantized", False)
        half = half or next(model.parameters()).dtype != torch.float32
        self.tolerance = TOLERANCE["half" if half else "fp32"]

    def losses(self, way: Way, example: Batch) -> torch.Tensor:
        """Each label's loss."""
        devices = [example["input_ids"].device] if example["input_ids"].is_cuda else []
        one = torch.ones((), device=example["input_ids"].device)
        drawing = PaddedDropout(example["lengths"]) if way.layout != "padded" else nullcontext()
        with torch.random.fork_rng(devices), torch.no_grad(), self.context(), drawing:
            torch.manual_seed(0)  # as it will train: what is dropped must be the same too
            found = self.forward.by(way, self.model, example, one)
        self.dropped = self.dropped or getattr(drawing, "used", False)
        wrong = float((found.total - found.losses.sum()).abs() / found.losses.sum().abs().clamp(min=1e-6))
        if way.head == "chunked":
            wrong = max(wrong, float((found.output.logits.sum() / found.losses.sum() - 1).abs()))
        if wrong > 0.02:
            raise NotUsable("the model changes its logits after its output layer")
        return found.losses

    def passes(self, way: Way) -> bool:
        """Whether every process finds the losses of the plain batch; why not is kept in `reason`."""
        try:
            reason = self.fault(way)
        except Exception as error:  # whatever a model raises when it is called in a way it does not know
            reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        good = self.agreed(not reason)
        if not good:
            self.reason = reason or "another process finds other losses"
        return good

    def fault(self, way: Way) -> str:
        """What is wrong with a way, or nothing."""
        found = [self.losses(way, example) for example in self.examples]
        away = [(f - e).abs() for f, e in zip(found, self.expected, strict=True)]
        scale = 1 + self.expected[0].abs().mean()
        mean = max(float(a.mean() / scale) for a in away)
        if not mean <= self.tolerance:
            return f"its losses differ by {max(float(a.max()) for a in away):.2g} nats"
        # changing the first sequence must not reach the second more than it does in the plain batch (int8 outliers)
        moved, usual = ((x[0] - x[1])[self.second].abs().max() for x in (found, self.expected))
        if not float(moved) <= 4 * float(usual) + 1e-6:
            return "the sequences of a batch see each other"
        self.difference = max(float(a.max()) for a in away)
        return ""
