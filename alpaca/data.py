"""Rows to token ids and labels, tokenised once and cached; batches for training. Knows no model.

An example is prompt + response + EOS. The cache holds every row in order; what is held out for validation and what
is masked is decided when it is read, so that one entry serves both sets.
"""

import functools
import hashlib
import json
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alpaca import cache, console
from alpaca import rows as rows_module
from alpaca.config import TrainConfig
from alpaca.errors import UserError
from alpaca.examples import DataReport, check_learnable, encode
from alpaca.prompts import Prompt
from alpaca.rows import Rows

if TYPE_CHECKING:
    import torch

FORMAT = 2
"""Raised whenever the same settings give other tokens, or the files another form."""
MASKED = -100
"""Label of a position that carries no loss."""
TOKENS, REPORT = "tokens.arrow", "report.json"


class TokenDataset:
    """Examples of a cache entry, memory-mapped. Item: {"input_ids": int32 [length], "labels": int64 [length], "row"}."""

    def __init__(self, folder: Path | str, positions: list[int] | None = None, loss_on: str = "response") -> None:
        """`positions`: which examples, in which order; null: all. Raises OSError or ValueError for a damaged entry."""
        self.folder = Path(folder)
        self.loss_on = loss_on
        self._open()
        total = len(self._prompt_lengths)
        self.positions = np.arange(total) if positions is None else np.asarray(positions, dtype=np.int64)

    def _open(self) -> None:
        import pyarrow as pa

        reader = pa.ipc.open_file(pa.memory_map(str(self.folder / TOKENS)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        lists = [batch.column("input_ids") for batch in batches]
        self._values = [column.values.to_numpy() for column in lists]
        self._offsets = [column.offsets.to_numpy() for column in lists]
        self._starts = np.cumsum([0, *(len(batch) for batch in batches)]).tolist()
        self._lengths = np.concatenate([np.diff(offsets) for offsets in self._offsets])
        self._prompt_lengths = np.concatenate([batch.column("prompt_length").to_numpy() for batch in batches])
        self._rows = np.concatenate([batch.column("row").to_numpy() for batch in batches])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "loss_on": self.loss_on, "positions": self.positions}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()  # a worker maps the same file instead of receiving a copy

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = int(self.positions[index])
        chunk = bisect_right(self._starts, position) - 1
        inside = position - self._starts[chunk]
        start, end = self._offsets[chunk][inside : inside + 2]
        ids = self._values[chunk][start:end]
        labels = ids.astype(np.int64)
        if self.loss_on == "response":
            labels[: self._prompt_lengths[position]] = MASKED
        return {"input_ids": ids, "labels": labels, "row": int(self._rows[position])}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names what is trained on by its content: tokens, masks and which examples, in order."""
        with (self.folder / TOKENS).open("rb") as file:
            total = hashlib.file_digest(file, "sha256")
        total.update(self.positions.tobytes() + self.loss_on.encode())
        return total.hexdigest()[:32]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        return self._lengths[self.positions]

    @property
    def prompt_lengths(self) -> np.ndarray:
        """Tokens of each example's prompt, at most its length."""
        return np.minimum(self._prompt_lengths[self.positions], self.lengths)

    @property
    def rows(self) -> np.ndarray:
        """Number of each example's row in the source, 0-based."""
        return self._rows[self.positions]


@dataclass
class Prepared:
    """Data that is ready for training."""

    train: TokenDataset
    validation: TokenDataset | None
    report: DataReport


def flattened(items: list[Any]) -> list[dict[str, Any]]:
    """The examples of a micro-batch, whose items may be packed rows: lists of examples."""
    return [example for item in items for example in (item if isinstance(item, list) else [item])]


@dataclass
class Collator:
    """Examples to a batch, padded on the right to the longest: tensors [examples, tokens], torch.long."""

    pad_id: int

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, "torch.Tensor | list[int]"]:
        """{"input_ids", "attention_mask" (1: a token, 0: padding), "labels" (-100: no loss), "rows", "lengths": list[int]}."""
        import torch

        shape = (len(examples), max(len(e["input_ids"]) for e in examples))
        ids = torch.full(shape, self.pad_id, dtype=torch.long)
        labels = torch.full(shape, MASKED, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        for i, example in enumerate(examples):
            length = len(example["input_ids"])
            ids[i, :length] = torch.tensor(example["input_ids"], dtype=torch.long)
            labels[i, :length] = torch.tensor(example["labels"], dtype=torch.long)
            mask[i, :length] = 1
        numbers = {"rows": [e["row"] for e in examples], "lengths": [len(e["input_ids"]) for e in examples]}
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, **numbers}


@dataclass
class FlatCollator:
    """Examples to one row without padding, end to end; what would need a look at a GPU's memory is counted here."""

    pad_id: int
    """For a model that must be padded after all."""

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """Tensors torch.long; `position_ids` start again with each example, whose first label is always -100.

        {"input_ids", "labels", "position_ids": [1, tokens], "label_index": where a label is predicted [labels],
        "targets": the labels themselves [labels], "lengths", "rows": list[int], "pad_id"}.
        """
        import torch

        examples = flattened(examples)
        lengths = [len(e["input_ids"]) for e in examples]
        labels = np.concatenate([e["labels"] for e in examples])
        labels[np.cumsum([0, *lengths[:-1]])] = MASKED  # nothing stands before it that could predict it
        taken = np.flatnonzero(labels != MASKED)
        ids = np.concatenate([e["input_ids"] for e in examples]).astype(np.int64)
        places = np.concatenate([np.arange(n) for n in lengths])
        return {
            "input_ids": torch.from_numpy(ids).unsqueeze(0),
            "labels": torch.from_numpy(labels).unsqueeze(0),
            "position_ids": torch.from_numpy(places).unsqueeze(0),
            "label_index": torch.from_numpy(taken - 1),
            "targets": torch.from_numpy(labels[taken]),
            "lengths": lengths,
            "rows": [e["row"] for e in examples],
            "pad_id": self.pad_id,
        }


def prepare(config: TrainConfig, tokenizer: Any, prompt: Prompt, rows: Rows | None = None) -> Prepared:
    """Tokenised training and validation data of a config, from the cache when it is there.

    `rows`: rows that were already read; else they are read from config.data when the cache lacks them. Raises UserError
    for rows, settings and cache folders that cannot be used.
    """
    digest = rows_module.digest(config.data) if rows is None else rows_module.content_digest(rows)
    name = _key(config, tokenizer, prompt, digest)

    def write(folder: Path) -> None:
        source = _read_unchanged(config, digest) if rows is None else rows
        _write(folder, config, tokenizer, prompt, source)

    folder, cached = cache.entry(cache.root(config.data.cache), name, _whole, write)
    report = DataReport(**json.loads((folder / REPORT).read_text())["report"])
    report.from_cache = cached
    if cached and rows is None:
        for note in report.notes:
            console.warn(note)
    _warn(report, config)
    train, held = rows_module.split(report.rows, config.data.validation)
    validation = TokenDataset(folder, held, config.loss_on) if held else None
    return Prepared(TokenDataset(folder, train, config.loss_on), validation, report)


def _read_unchanged(config: TrainConfig, digest: str) -> Rows:
    rows = rows_module.read(config.data)
    if rows_module.digest(config.data) != digest:
        raise UserError(
            f"{config.data.path or config.data.hub} changed while it was read: try again when it is written"
        )
    return rows


def _key(config: TrainConfig, tokenizer: Any, prompt: Prompt, digest: str) -> str:
    """Names a cache entry by everything that decides its content."""
    import tokenizers
    import transformers

    parts = {
        "format": FORMAT,
        "libraries": [tokenizers.__version__, transformers.__version__],
        "data": digest,
        "tokenizer": _tokenizer_digest(tokenizer),
        "prompt": [prompt.kind, prompt.with_input, prompt.without_input, prompt.system],
        "loss_on": config.loss_on,
        "lengths": [config.max_length, config.source_max_length, config.target_max_length],
        "over_length": config.over_length,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def _tokenizer_digest(tokenizer: Any) -> str:
    total = hashlib.sha256(type(tokenizer).__name__.encode())
    for name in ("special_tokens_map", "add_bos_token", "add_eos_token", "chat_template", "split_special_tokens"):
        total.update(f"\n{name} {getattr(tokenizer, name, None)}".encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        text = backend.to_str()
        # truncation and padding stand first: they change with every call and say nothing about the tokens
        total.update(text[max(text.find('"added_tokens"'), 0) :].encode())
        return total.hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def _whole(folder: Path) -> bool:
    try:
        size = json.loads((folder / REPORT).read_text())["bytes"]
        if (folder / TOKENS).stat().st_size != size:
            return False
        TokenDataset(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _write(folder: Path, config: TrainConfig, tokenizer: Any, prompt: Prompt, rows: Rows) -> None:
    """Fill a cache entry: one Arrow record batch for each chunk, and the report."""
    import pyarrow as pa

    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("prompt_length", pa.int32()), ("row", pa.int32())])
    report = DataReport(empty_outputs=rows.empty_outputs, notes=rows.notes)
    path = folder / TOKENS
    with path.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        for ids, prompt_lengths, numbers in encode(config, tokenizer, prompt, rows, report):
            places = pa.array(np.concatenate(([0], ids.ends)), pa.int32())
            lists = pa.ListArray.from_arrays(places, pa.array(ids.values, pa.int32()))
            columns = [lists, pa.array(prompt_lengths, pa.int32()), pa.array(numbers, pa.int32())]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    check_learnable(config, report)
    content = {"report": asdict(report), "bytes": path.stat().st_size}
    (folder / REPORT).write_text(json.dumps(content))


def _warn(report: DataReport, config: TrainConfig) -> None:
    """Say what a user should know about the rows, whether they were tokenised now or before."""
    total = report.rows + report.dropped
    if report.truncated:
        console.warn(f"{report.truncated:,} of {total:,} rows are over length and cut: they end without EOS")
    if report.dropped:
        console.warn(f"{report.dropped:,} of {total:,} rows are over length and left out (over_length=drop)")
    if report.unlearnable:
        console.warn(f"{report.unlearnable:,} rows have no token of the response left to learn from: raise max_length")
    if report.eos_inside:
        console.warn(f"{report.eos_inside:,} rows hold the EOS token as text: an answer ends there")
    if report.empty_outputs and config.data.empty_output == "keep":
        console.warn(f"{report.empty_outputs:,} rows have an empty output (data.empty_output=drop leaves them out)")
