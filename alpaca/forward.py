"""A batch through the model to its loss: only the work that counts, after a check that it changes nothing.

Two savings, each used only where a short check on real rows finds the losses of the plain padded batch:
sequences end to end without padding (`padding_free`), and the loss taken in the output layer at the labels alone
(`chunked_loss`). No family is named here: what a model can do is tried (`forward_check`). Knows no optimiser.
"""

import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch.nn import functional

from alpaca import chunked_loss, padding_free
from alpaca.data import MASKED
from alpaca.dropout import PaddedDropout
from alpaca.errors import UserError

Batch = dict[str, Any]


class Loss(NamedTuple):
    """`total`: summed loss / divisor, with gradient; `losses`: each label's in nats, fp32, in the order of the rows."""

    total: torch.Tensor
    losses: torch.Tensor
    output: Any


Layout = Literal["sequences", "packed", "padded"]


@dataclass(frozen=True)
class Way:
    """How a flat batch goes through the model."""

    layout: Layout = "padded"
    """sequences: end to end, attention by this project; packed: end to end, by transformers; padded: one row each."""
    head: Literal["chunked", "gathered", "full"] = "full"
    """chunked: the loss in place of logits; gathered: logits at labels only; full: logits everywhere."""

    def __str__(self) -> str:
        layout = "batches without padding" if self.layout != "padded" else "padded batches"
        loss = {"chunked": "loss at labels only, in chunks", "gathered": "logits at labels only", "full": "all logits"}
        return f"{layout}, {loss[self.head]}"


def plain_loss(model: Any, batch: Batch, divisor: torch.Tensor) -> Loss:
    """The padded batch with logits at every position: what everything else is measured against."""
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    targets = batch["labels"][:, 1:]  # the logits at position i are for the token at i + 1
    here = targets.ne(MASKED)
    scores = output.logits[:, :-1].float()
    losses = functional.cross_entropy(scores.transpose(1, 2), targets, ignore_index=MASKED, reduction="none")
    return Loss(losses.sum() / divisor, losses.detach()[here], output)


def router_loss(model: Any, found: Loss, divisor: torch.Tensor) -> torch.Tensor | float:
    """What a router of experts adds to the loss where the model's config has `output_router_logits`, else 0.

    Its auxiliary loss of the batch x its coefficient, as transformers adds it to a batch's mean loss; in a step of
    several batches each counts by its labels, as its cross-entropy does. Raises UserError for a model without one.
    """
    auxiliary = getattr(found.output, "aux_loss", None)
    if not isinstance(auxiliary, torch.Tensor):
        return 0.0
    places = model, model.config.get_text_config(decoder=True)
    named = (getattr(place, name, None) for place in places for name in ("router_aux_loss_coef", "aux_loss_coef"))
    if (coefficient := next((c for c in named if c is not None), None)) is None:
        raise UserError(
            f"output_router_logits=true: {type(model).__name__} names no coefficient of its router's auxiliary loss; "
            "set output_router_logits to false in its config"
        )
    return coefficient * auxiliary * len(found.losses) / divisor


def padded(batch: Batch) -> Batch:
    """A flat batch as one row for each sequence, padded on the right."""
    lengths: list[int] = batch["lengths"]

    def rows(values: torch.Tensor, fill: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(values[0].split(lengths)), batch_first=True, padding_value=fill)

    ids = batch["input_ids"]
    mask = rows(torch.ones_like(ids), 0)
    width = mask.shape[1]
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    place = padding_free.sent(torch.arange(ids.shape[1]) - starts[sequence] + sequence * width, ids.device)
    return {
        "input_ids": rows(ids, batch["pad_id"]),
        "attention_mask": mask,
        "labels": rows(batch["labels"], MASKED),
        "label_index": place[batch["label_index"]],
    }


class NotUsable(Exception):
    """A way that this model cannot go."""


class Forward:
    """Takes the loss of flat batches the quickest way that was shown equal; plain until `forward_check.choose`."""

    def __init__(self, model: Any, max_length: int) -> None:
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.max_length = max_length
        self.head = chunked_loss.output_layer(model)
        self.way = Way()
        self.change: chunked_loss.Change | None = None
        """What the model does to its logits, once `find_change` has seen it."""
        self.drops = True
        """Whether the model drops anything while it trains, or may."""
        self.compiled = False
        """Whether layers are compiled. They draw dropout by themselves, and a function that is exchanged compiles anew."""
        self.reason = ""
        """Why a quicker way was not taken."""

    def __call__(self, model: Any, batch: Batch, divisor: torch.Tensor) -> Loss:
        """The loss of a flat batch (`data.FlatCollator`) on the model's device."""
        way = replace(self.way, layout="padded") if self.written_out() and _squares_more(batch) else self.way
        return self.by(way, model, batch, divisor)

    def written_out(self) -> bool:
        """Whether sequences end to end make scores of all tokens against all (eager attention)."""
        return self.way.layout == "packed" and getattr(self.base.config, "_attn_implementation", None) == "eager"

    def drawing(self, batch: Batch) -> AbstractContextManager[Any]:
        """For forward and backward pass of a flat batch: dropout as the padded batch would draw it."""
        packs = self.drops and not self.compiled and self.way.layout != "padded" and "targets" in batch
        return PaddedDropout(batch["lengths"]) if packs else nullcontext()

    def by(self, way: Way, model: Any, batch: Batch, divisor: torch.Tensor) -> Loss:
        """The loss of a flat batch in a certain way."""
        if way.layout == "packed" and self.too_long(batch):
            way = replace(way, layout="padded")
        if way.layout != "padded":
            inputs, index = self.inputs(way, batch), batch["label_index"]
        else:
            rows = padded(batch)
            if way.head == "full":
                return plain_loss(model, rows, divisor)
            inputs, index = {k: rows[k] for k in ("input_ids", "attention_mask")}, rows["label_index"]
        if way.head == "chunked":
            return self.chunked(model, inputs, index, batch["targets"], divisor)
        output, logits = logits_at(model, inputs, index, way.head == "gathered")
        losses = functional.cross_entropy(logits.float(), batch["targets"], reduction="none")
        return Loss(losses.sum() / divisor, losses.detach(), output)

    def too_long(self, batch: Batch) -> bool:
        """Whether the sequences end to end are more than a table of positions x positions may hold (GPT-Neo)."""
        limit = getattr(self.base.config, "max_position_embeddings", None)
        flash = "flash" in str(getattr(self.base.config, "_attn_implementation", ""))
        return isinstance(limit, int) and not flash and batch["input_ids"].shape[1] > limit

    def inputs(self, way: Way, batch: Batch) -> Batch:
        """What the model is given for sequences end to end."""
        ids, lengths = batch["input_ids"], batch["lengths"]
        inputs: Batch = {"input_ids": ids, "position_ids": batch["position_ids"]}
        if way.layout == "sequences":
            return inputs | {"attention_mask": padding_free.sequence_mask(lengths, ids.device)}
        if "flash" in str(getattr(self.base.config, "_attn_implementation", "")):
            ends = padding_free.sent(torch.tensor([0, *lengths]).cumsum(0).to(torch.int32), ids.device)
            inputs |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
            inputs |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
        return inputs

    def chunked(
        self, model: Any, inputs: Batch, index: torch.Tensor, targets: torch.Tensor, divisor: torch.Tensor
    ) -> Loss:
        """The loss taken inside the output layer."""
        assert self.head is not None
        change = self.change or chunked_loss.Change()
        with chunked_loss.loss_in_head(self.head, index, targets, divisor, change) as found:
            output = model(**inputs, use_cache=False)
        if found.calls != 1 or found.loss is None or found.losses is None or output.logits.numel() != 1:
            raise NotUsable("its output layer is not what makes the logits")
        through = output.logits.reshape(())
        # the gradient goes through the model's output, which wrappers watch; the value is the one before they round it
        return Loss(through + (found.loss - through).detach(), found.losses, output)

    def find_change(self, model: Any, batch: Batch) -> None:
        """See what the model does to its logits. Raises NotUsable where chunks of them cannot be changed like that."""
        assert self.head is not None
        rows = padded(batch)
        with chunked_loss.probes_in_head(self.head), torch.no_grad():
            output = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], use_cache=False)
        self.change = chunked_loss.Change.of(output.logits)
        if self.change is None:
            raise NotUsable("the model changes its logits after its output layer")


def _squares_more(batch: Batch) -> bool:
    """Whether all tokens against all are more scores than those of each padded row."""
    lengths: list[int] = batch["lengths"]
    return sum(lengths) ** 2 > len(lengths) * max(lengths) ** 2


def logits_at(model: Any, inputs: Batch, index: torch.Tensor, takes: bool) -> tuple[Any, torch.Tensor]:
    """(model output, logits (labels, vocabulary) at places of the flattened batch); no others when the model `takes` it."""
    rows, width = inputs["input_ids"].shape
    if not takes:
        output = model(**inputs, use_cache=False)
        return output, output.logits.flatten(0, 1).index_select(0, index)
    if rows == 1:
        output = model(**inputs, use_cache=False, logits_to_keep=index)
        return output, output.logits[0]
    kept, column = (index % width).unique(return_inverse=True)
    output = model(**inputs, use_cache=False, logits_to_keep=kept)
    return output, output.logits[index // width, column]


def takes_positions(base: Any) -> bool:
    """Whether the model computes logits at given positions only (`logits_to_keep`)."""
    return "logits_to_keep" in inspect.signature(base.forward).parameters
