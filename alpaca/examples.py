"""Rows to examples within the length limits, counted: prompt + response + EOS. Knows no files, no masks and no model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alpaca.config import TrainConfig
from alpaca.encoding import Encoder
from alpaca.errors import UserError
from alpaca.prompts import Prompt
from alpaca.ragged import Ragged
from alpaca.rows import Rows

CHUNK = 4000
"""Rows that are tokenised at a time."""


@dataclass
class DataReport:
    """What preparing the data found. Counts are of rows unless they say tokens."""

    rows: int = 0
    truncated: int = 0
    dropped: int = 0
    """Left out for their length (over_length=drop)."""
    unlearnable: int = 0
    """Kept, but truncation left no token of the response."""
    eos_inside: int = 0
    """The row's own text holds the EOS token, which ends an answer wherever it stands."""
    empty_outputs: int = 0
    tokens: int = 0
    response_tokens: int = 0
    """Response and EOS, or what truncation left of them."""
    longest: int = 0
    """Tokens of the longest example."""
    from_cache: bool = False
    notes: list[str] = field(default_factory=list)
    """Bad rows skipped, empty outputs dropped."""

    @property
    def mean(self) -> float:
        """Mean tokens of an example."""
        return self.tokens / self.rows if self.rows else 0.0


def check_learnable(config: TrainConfig, report: DataReport) -> None:
    """Raise UserError when nothing is left to train on."""
    if not report.rows:
        raise UserError(
            f"no row is left: all {report.dropped} are over length; give a larger max_length or over_length=truncate"
        )
    if report.unlearnable == report.rows:
        raise UserError(
            f"no row has a token to learn from: every prompt fills max_length={config.max_length}; give a larger one"
        )


def encode(
    config: TrainConfig, tokenizer: Any, prompt: Prompt, rows: Rows, report: DataReport
) -> Iterator[tuple[Ragged, np.ndarray, np.ndarray]]:
    """Chunks of (token ids, prompt lengths, row numbers), counted into the report. Raises for over_length=error."""
    from tqdm import tqdm

    eos = tokenizer.eos_token
    if eos is None or tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no EOS token, so that answers would never end: give another, model.tokenizer=DIR"
        )
    encoder = Encoder(tokenizer, special=prompt.kind != "chat")
    too_long: list[tuple[int, int]] = []
    with tqdm(total=len(rows.rows), desc="tokenising", unit="row", disable=None, leave=False) as bar:
        for start in range(0, len(rows.rows), CHUNK):
            chunk = rows.rows[start : start + CHUNK]
            pairs = [prompt.render_pair(row, tokenizer) for row in chunk]
            examples = _examples(config, tokenizer.eos_token_id, prompt, encoder, pairs)
            report.eos_inside += sum(any(eos in text for text in row.values()) for row in chunk)
            yield _count(config, examples, np.array(rows.numbers[start : start + CHUNK]), report, too_long)
            bar.update(len(chunk))
    if config.over_length == "error" and too_long:
        raise UserError(_too_long(config, too_long))


def _too_long(config: TrainConfig, rows: list[tuple[int, int]]) -> str:
    limit = f"max_length={config.max_length}"
    if config.source_max_length is not None:
        limit = f"source_max_length={config.source_max_length}, target_max_length={config.target_max_length}"
    shown = ", ".join(f"row {number} ({length} tokens)" for number, length in rows[:20])
    more = f" and {len(rows) - 20} more" if len(rows) > 20 else ""
    return (
        f"{len(rows)} rows are longer than {limit} (over_length=error): {shown}{more}; rows count from 0. "
        "Give a larger limit, or over_length=truncate|drop"
    )


def _examples(
    config: TrainConfig, eos: int, prompt: Prompt, encoder: Encoder, pairs: list[tuple[str, str]]
) -> tuple[Ragged, np.ndarray, np.ndarray]:
    """(ids cut to the limits, tokens of them that are prompt, tokens before the cut) of each (source, target)."""
    sources, targets = [p[0] for p in pairs], [p[1] for p in pairs]
    if config.source_max_length is not None:  # prompt and response cut apart, as QLoRA does
        source, target = encoder.ids(sources), _ended(encoder.ids(targets, special=False), eos)
        prompts = source.cut(config.source_max_length)
        return prompts.join(target.cut(config.target_max_length)), prompts.lengths, source.lengths + target.lengths
    whole, prompt_lengths = encoder.pairs(sources, targets)
    ended = np.zeros(len(whole), dtype=bool)
    if prompt.kind == "chat":  # a chat template mostly ends the turn itself
        ended = whole.sums((whole.values == eos) & (whole.places >= np.repeat(prompt_lengths, whole.lengths))) > 0
    whole = _ended(whole, eos, ~ended)
    examples = whole.cut(config.max_length)
    return examples, np.minimum(prompt_lengths, examples.lengths), whole.lengths


def _ended(ids: Ragged, eos: int, where: np.ndarray | None = None) -> Ragged:
    """The rows with EOS behind, those of `where` or all."""
    counts = np.ones(len(ids), dtype=np.int64) if where is None else where.astype(np.int64)
    return ids.join(Ragged(np.full(counts.sum(), eos, dtype=np.int32), counts))


def _count(
    config: TrainConfig,
    examples: tuple[Ragged, np.ndarray, np.ndarray],
    numbers: np.ndarray,
    report: DataReport,
    too_long: list[tuple[int, int]],
) -> tuple[Ragged, np.ndarray, np.ndarray]:
    """What of a chunk is kept, as columns; lengths go into the report."""
    ids, prompt_lengths, full = examples
    over = ids.lengths < full
    if config.over_length == "drop":
        report.dropped += int(over.sum())
        if over.any():
            kept = np.flatnonzero(~over)
            ids, prompt_lengths, numbers = ids.take(kept), prompt_lengths[kept], numbers[kept]
    else:
        too_long += zip(numbers[over].tolist(), full[over].tolist(), strict=True)
        report.truncated += int(over.sum())
    report.rows += len(ids)
    report.tokens += len(ids.values)
    report.response_tokens += int((ids.lengths - prompt_lengths).sum())
    if config.loss_on == "response":
        report.unlearnable += int((ids.lengths == prompt_lengths).sum())
    report.longest = max(report.longest, int(ids.lengths.max(initial=0)))
    return ids, prompt_lengths, numbers
