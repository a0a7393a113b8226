"""Cross-entropy straight from hidden states: no matrix of tokens x vocabulary for a whole batch. Knows no batch layout.

The gradients of hidden states and output layer are computed in the forward pass, a chunk of rows at a time, while the
chunk's logits are there; the backward pass only scales them. Nothing of the vocabulary's size is kept per token.
What a model does to each logit after its output layer (`Change`) is found by trying and done to the chunks.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

CHUNK_BYTES = {"cpu": 32 * 2**20, "other": 512 * 2**20}
"""Most bytes of fp32 logits that exist at once: on a CPU about what its caches and page faults bear, else GPU memory."""


PROBES = (1.0, -1.0, 3.0, -5.0, 7.0, 0.0, 100.0, -1000.0, 10240.0)
"""Logits that a model is given to see what it does to them; exact in 16 bits. The last is beyond any cap."""


@dataclass(frozen=True)
class Change:
    """What a model does to each logit x after its output layer: slope x, or with a cap: cap tanh(slope x / cap)."""

    slope: float = 1.0
    cap: float | None = None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits changed, in place."""
        if self.cap is not None:
            return logits.mul_(self.slope / self.cap).tanh_().mul_(self.cap)
        return logits if self.slope == 1 else logits.mul_(self.slope)

    def back(self, slopes: torch.Tensor, changed: torch.Tensor | None) -> torch.Tensor:
        """The gradient of the logits, in place of that of the `changed` ones; these are lost."""
        if self.cap is not None and changed is not None:
            slopes.mul_(changed.mul_(1 / self.cap).square_().neg_().add_(1))
        return slopes if self.slope == 1 else slopes.mul_(self.slope)

    @classmethod
    def of(cls, probed: torch.Tensor) -> "Change | None":
        """The change that makes these of `PROBES`, or None where there is no such change."""
        found = probed.detach().double().cpu().flatten()
        if found.shape != (len(PROBES),):
            return None
        first, last = float(found[0]), float(found[-1])
        changes = [cls(first)]
        if 0 < first < last:
            changes.append(cls(last * math.atanh(first / last), last))
        for change in changes:
            made = change(torch.tensor(PROBES, dtype=torch.float64))
            if change.slope != 0 and torch.allclose(made, found, rtol=1e-5, atol=1e-12):
                return change
        return None


def chunk_rows(rows: int, vocabulary: int, device: torch.device) -> int:
    """Rows of logits in a chunk, so that chunks are of even size and each holds CHUNK_BYTES at most."""
    most = max(1, CHUNK_BYTES["cpu" if device.type == "cpu" else "other"] // (4 * vocabulary))
    chunks = max(1, -(-rows // most))
    return max(1, -(-rows // chunks))


class _LinearCrossEntropy(torch.autograd.Function):
    """(sum of the losses / divisor, each row's loss in nats) of softmax(change(hidden weight^T + bias)) against targets."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        divisor: torch.Tensor,
        dtype: torch.dtype,
        learns: bool,
        change: Change,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        needs = [learns and needed for needed in ctx.needs_input_grad[:3]]
        whole = dtype == torch.float32  # half precision is divided in the backward pass, after the loss scaling
        rows, w = hidden.to(dtype), weight.to(dtype)
        scaled = rows / divisor if whole else rows
        losses = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
        to_hidden = torch.empty_like(rows) if needs[0] else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if needs[1] else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if needs[2] and bias is not None else None
        for start in range(0, len(rows), size := chunk_rows(len(rows), len(weight), rows.device)):
            here = slice(start, start + size)
            labels = targets[here].unsqueeze(1)
            logits = change(nn.functional.linear(rows[here], w, None if bias is None else bias.to(dtype)).float())
            label_logits, largest = logits.gather(1, labels), logits.amax(1, keepdim=True)
            shares = torch.softmax(logits, 1)
            changed = None if change.cap is None else logits
            del logits
            # log of the sum of exponentials, by the row's largest share: that is never 0
            total = largest - shares.amax(1, keepdim=True).log()
            losses[here] = (total - label_logits).squeeze(1)
            if not any(needs):
                continue
            change.back(shares.scatter_add_(1, labels, torch.full_like(total, -1.0)), changed)
            if to_bias is not None:
                to_bias += shares.sum(0) / divisor if whole else shares.sum(0)
            slopes = shares.to(dtype)
            if to_hidden is not None:
                torch.mm(slopes, w, out=to_hidden[here])
            if to_weight is not None and whole:
                to_weight.addmm_(slopes.t(), scaled[here])
            elif to_weight is not None:
                to_weight += torch.mm(slopes.t(), scaled[here])
        if to_hidden is not None and whole:
            to_hidden /= divisor
        ctx.save_for_backward(to_hidden, to_weight, to_bias, None if whole else divisor)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(losses)
        return losses.sum() / divisor, losses

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[Any, ...]:
        *gradients, divisor = ctx.saved_tensors
        scale = slopes[0] if divisor is None else slopes[0] / divisor
        # 1 unless something scales the loss; only a CPU can look without waiting for its device
        if scale.device.type != "cpu" or scale.item() != 1:
            gradients = [None if g is None else g * scale.to(g.device) for g in gradients]
        typed = [None if g is None else g.to(d) for g, d in zip(gradients, ctx.dtypes, strict=True)]
        return (*typed, None, None, None, None, None)


def linear_cross_entropy(
    hidden: torch.Tensor,
    head: nn.Linear,
    targets: torch.Tensor,
    divisor: torch.Tensor,
    change: Change = Change(),
) -> tuple[torch.Tensor, torch.Tensor]:
    """(summed loss / divisor, the loss of each row), fp32; products in autocast's dtype, else in the layer's.

    hidden: (rows, width); targets: (rows,), every one a token id; divisor: a number as a tensor; change: of the logits.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
    with torch.autocast(device, enabled=False):
        return _LinearCrossEntropy.apply(
            hidden, head.weight, head.bias, targets, divisor, dtype, torch.is_grad_enabled(), change
        )


@dataclass
class HeadLoss:
    """What the output layer computed in place of logits."""

    loss: torch.Tensor | None = None
    losses: torch.Tensor | None = None
    """Each label's loss in nats, fp32, no gradient."""
    calls: int = field(default=0)


def output_layer(model: Any) -> nn.Linear | None:
    """The layer that makes logits when it is a plain linear one whose weights are there; else None."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    return head if type(head) is nn.Linear and head.weight.is_floating_point() else None


@contextmanager
def loss_in_head(
    head: nn.Linear, index: torch.Tensor, targets: torch.Tensor, divisor: torch.Tensor, change: Change
) -> Iterator[HeadLoss]:
    """Within it the model's `logits` are 0, shape (1, 1, 1), with the gradient of its loss: see `HeadLoss` for that.

    Hidden states at `index` against `targets`. The loss is taken inside the model, so that whatever wraps it (DDP,
    FSDP, DeepSpeed) sees its output layer used; what the model then does to it has at 0 the slope that `change` has.
    index: (labels,), positions in the flattened (batch x positions); targets: (labels,), token ids.
    """
    found = HeadLoss()

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        place = head.weight.device
        rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, index.to(hidden.device)).to(place)
        found.loss, found.losses = linear_cross_entropy(rows, head, targets.to(place), divisor.to(place), change)
        found.calls += 1
        return ((found.loss - found.loss.detach()) / change.slope).view(1, 1, 1)

    with _forward_of(head, forward):
        yield found


@contextmanager
def probes_in_head(head: nn.Linear) -> Iterator[None]:
    """Within it the output layer makes `PROBES` of everything, fp32, shape (1, 1, probes)."""
    with _forward_of(head, lambda hidden: torch.tensor(PROBES, device=head.weight.device).view(1, 1, -1)):
        yield


@contextmanager
def _forward_of(head: nn.Linear, forward: Any) -> Iterator[None]:
    before = head.__dict__.get("forward")  # a library may have put its own there
    head.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before  # type: ignore[method-assign]
