"""Rows to examples within the length limits, counted: prompt + response + EOS. Knows no files, no masks and no model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from alpaca.config import TrainConfig
from alpaca.encoding import Encoder
from alpaca.errors import UserError
from alpaca.prompts import Prompt
from alpaca.rows import Rows

CHUNK = 1000
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
) -> Iterator[tuple[list[list[int]], list[int], list[int]]]:
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
            report.eos_inside += sum(eos in "\0".join(row.values()) for row in chunk)
            yield _count(config, examples, rows.numbers[start : start + CHUNK], report, too_long)
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
) -> list[tuple[list[int], int, int]]:
    """(ids cut to the limits, tokens of them that are prompt, tokens before the cut) of each (source, target)."""
    sources, targets = [p[0] for p in pairs], [p[1] for p in pairs]
    if config.source_max_length is not None:
        apart = zip(encoder.ids(sources), encoder.ids(targets, special=False), strict=True)
        return [_join(s, [*t, eos], config.source_max_length, config.target_max_length) for s, t in apart]
    whole, lengths = encoder.pairs(sources, targets)
    examples = []
    for ids, prompt_length in zip(whole, lengths, strict=True):
        if prompt.kind != "chat" or eos not in ids[prompt_length:]:  # a chat template mostly ends the turn itself
            ids.append(eos)
        full = len(ids)
        del ids[config.max_length :]
        examples.append((ids, min(prompt_length, len(ids)), full))
    return examples


def _join(source: list[int], target: list[int], most: int, most_target: int | None) -> tuple[list[int], int, int]:
    """Prompt and response cut apart, as QLoRA does."""
    return source[:most] + target[:most_target], min(len(source), most), len(source) + len(target)


def _count(
    config: TrainConfig,
    examples: list[tuple[list[int], int, int]],
    numbers: list[int],
    report: DataReport,
    too_long: list[tuple[int, int]],
) -> tuple[list[list[int]], list[int], list[int]]:
    """What of a chunk is kept, as columns; lengths go into the report."""
    kept = []
    for (ids, prompt_length, full), number in zip(examples, numbers, strict=True):
        length = len(ids)
        if length < full:
            if config.over_length == "drop":
                report.dropped += 1
                continue
            too_long.append((number, full))
            report.truncated += 1
        report.rows += 1
        report.tokens += length
        report.response_tokens += length - prompt_length
        report.unlearnable += length == prompt_length and config.loss_on == "response"
        report.longest = max(report.longest, length)
        kept.append((ids, prompt_length, number))
    return [k[0] for k in kept], [k[1] for k in kept], [k[2] for k in kept]
