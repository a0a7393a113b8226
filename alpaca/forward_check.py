"""Whether a way through the model gives the losses of the plain padded batch, tried on two rows. Knows no family.

What a layout of the batch does to its tokens is compared beside the losses, in `layout_check`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from alpaca import console, devices, padding_free, varlen
from alpaca.data import MASKED
from alpaca.dropout import PaddedDropout
from alpaca.errors import UserError
from alpaca.forward import Batch, Forward, Layout, NotUsable, Way, takes_positions
from alpaca.layout_check import LayoutCheck
from alpaca.vote import Alone

TOLERANCE = {"fp32": 1e-5, "half": 0.02}
"""Largest mean difference of a label's loss, relative to 1 + the mean loss; half: 16 bits, TF32 or a quantised base."""
FEW = 8
"""Tokens that a row has at least, where one has, to show what its tokens see of each other."""
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
    tokens: int = 0,
) -> None:
    """Set the best way that gives what the plain one does on two examples, and say which it is.

    kernels: exchanges parts of the model for quicker ones, or says why not; the losses must be those from before.
    examples: `check_examples` on the model's device; context: autocast as in training; agreed: whether all processes
    say yes; tokens: how many the longest batch has, where the examples are tried behind as many others. Every process
    calls the model the same number of times.
    """
    check = Check(forward, model, examples, context, agreed)
    heads = [Way("padded", "chunked")] if forward.head is not None else []
    heads += [Way("padded", "gathered")] if takes_positions(forward.base) else []
    way = next((way for way in heads if check.passes(way)), Way())
    layouts: list[Layout] = ["packed"]
    if padding_free.can_attend(forward.base, forward.max_length, max(check.example["lengths"])):
        layouts.insert(0, "sequences")
    before = getattr(forward.base.config, "_attn_implementation", None)
    for layout in layouts:
        if layout == "sequences":
            varlen.switch(on=True)
            padding_free.use_attention(forward.base)
        good = check.passes_as_long_as(tokens, replace(way, layout=layout))
        if not good and layout == "sequences" and agreed(varlen.installed() is not None):
            varlen.switch(on=False)  # a kernel of this version may be at fault: sequence by sequence
            good = check.passes_as_long_as(tokens, replace(way, layout=layout))
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
    if forward.written_out():
        console.say("notice: its attention is eager, so batches that would cost it more without padding are padded")


def check_examples(dataset: Any, collate: Callable[[list[dict[str, Any]]], Batch], beyond: int = 0) -> list[Batch]:
    """What `choose` takes: two short rows that have labels, and the same with other tokens in the first one.

    beyond: the second has more tokens than this, twice as many if it can be: of a window in attention shorter rows show
    nothing.
    """
    dataset = getattr(dataset, "examples", dataset)  # of packed rows
    places = [*range(min(64, len(dataset)))]
    if beyond and hasattr(dataset, "lengths"):
        places += np.flatnonzero(np.asarray(dataset.lengths) > beyond)[:64].tolist()
    found = [e for e in map(dataset.__getitem__, places) if _learns(e)]
    if not found:  # the first rows are all cut before their response
        found = list(islice(filter(_learns, map(dataset.__getitem__, range(len(dataset)))), 2))
    found = sorted(found or [dataset[0]], key=lambda e: len(e["input_ids"]))
    first = next((e for e in found if len(e["input_ids"]) >= FEW), found[-1])
    least = max(len(first["input_ids"]) + 1, 2 * beyond)
    second = next((e for e in found if len(e["input_ids"]) >= least), found[-1])
    ids = first["input_ids"].copy()
    ids[len(ids) // 3 : -1] = ids[0]
    return [collate([first, second]), collate([first | {"input_ids": ids}, second])]


def longest_batch(datasets: list[tuple[Any, int]]) -> int:
    """Tokens of the longest batch that there can be of data sets, each with the number of its rows in a batch."""
    return max(int(np.sort(dataset.lengths)[-rows:].sum()) for dataset, rows in datasets)


def takes_tf32() -> bool:
    """Whether products of fp32 are rounded to TF32 on a GPU. torch's older question raises once the newer was answered."""
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


def _learns(example: dict[str, Any]) -> bool:
    return bool((example["labels"][1:] != MASKED).any())


class Check:
    """Losses of examples and states of their tokens in a way, against those of the plain padded batch."""

    def __init__(self, forward: Forward, model: Any, examples: list[Batch], context: Context, agreed: Vote) -> None:
        self.forward, self.model, self.context, self.agreed = forward, model, context, agreed
        self.example = examples[0]
        self.reason, self.unseen, self.difference, self.dropped = "", "", 0.0, False
        model.train()
        self.one = torch.ones((), device=self.example["input_ids"].device)
        self.expected = self.losses(Way(), self.one)
        self.precision = "half" if self.half() else "fp32"
        self.layout: LayoutCheck | None = None
        try:
            self.layout = LayoutCheck(forward, model, examples, context, self.precision)
        except torch.OutOfMemoryError:  # of one process alone; the others would wait for it
            raise
        except Exception as error:  # whatever a model raises that has no output layer, or no rows of one length
            self.unseen = first_line(error)
        if not self.all_without(self.unseen):
            self.layout, self.unseen = None, self.unseen or "another process could not look at its tokens"

    def half(self) -> bool:
        """Whether anything is rounded to less than fp32."""
        device = self.one.device.type
        with self.context():
            half = torch.is_autocast_enabled(device) or getattr(self.forward.base, "is_quantized", False)
        return half or (device == "cuda" and takes_tf32()) or next(self.model.parameters()).dtype != torch.float32

    def losses(self, way: Way, divisor: torch.Tensor) -> torch.Tensor:
        """Each label's loss."""
        devices = [self.one.device] if self.one.is_cuda else []
        drawing = PaddedDropout(self.example["lengths"]) if way.layout != "padded" else nullcontext()
        with torch.random.fork_rng(devices), torch.no_grad(), self.context(), drawing:
            if way.head == "chunked" and self.forward.change is None:
                self.forward.find_change(self.model, self.example)
            torch.manual_seed(0)  # as it will train: what is dropped must be the same too
            found = self.forward.by(way, self.model, self.example, divisor)
        self.dropped = self.dropped or getattr(drawing, "used", False)
        whole = found.losses.sum() / divisor
        wrong = float((found.total - whole).abs() / whole.abs().clamp(min=1e-6))
        if wrong > 0.02:
            raise NotUsable("its output layer makes another loss")
        return found.losses

    def passes_as_long_as(self, tokens: int, way: Way) -> bool:
        """`passes`, and once more behind so many tokens where the examples alone have fewer."""
        if not self.passes(way):
            return False
        layout = self.layout
        if layout is None or sum(self.example["lengths"]) >= tokens:
            return True
        return self.passes(way, lambda way: layout.fault_behind(way, tokens))

    def passes(self, way: Way, fault: Callable[[Way], str] | None = None) -> bool:
        """Whether every process finds the way equal to the plain one; why not is kept in `reason`."""
        try:
            reason = (fault or self.fault)(way)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model raises when it is called in a way it does not know
            reason = first_line(error)
        good = self.all_without(reason)
        if not good:
            self.reason = reason or "another process finds other losses"
        return good

    def all_without(self, reason: str) -> bool:
        """Whether no process has a reason against it. Raises UserError where the others cannot be asked."""
        try:
            return self.agreed(not reason)
        except Alone:
            if not reason:
                raise RuntimeError("timed out waiting for another process to check the fast path") from None
            raise UserError(
                f"process {devices.rank()} alone cannot check whether batches without padding give the same losses, and "
                f"the others wait for it: {reason}. Mend that, or use training.fast=false, which needs no check"
            ) from None

    def fault(self, way: Way) -> str:
        """What is wrong with a way, or nothing."""
        states = ""
        if way.layout != "padded":
            states = self.layout.fault(way) if self.layout is not None else self.unseen
        found = self.losses(way, self.one)
        away = (found - self.expected).abs()
        if not float(away.mean() / (1 + self.expected.mean())) <= TOLERANCE[self.precision]:
            return f"its losses differ by {float(away.max()):.2g} nats"
        self.difference = float(away.max())
        return states


def first_line(error: Exception) -> str:
    """What an error says, short."""
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
