"""The rows of a run: read from files or the hub, mapped, checked, ordered. Knows no tokenizer and no prompt.

A row is {"instruction", "input", "output"}, all str. Its number is its 0-based place in the source before anything
is skipped, shuffled or left out; a folder counts on from file to file.
"""

import hashlib
import json
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alpaca import console, hub, records, schema
from alpaca.config import ColumnsConfig, DataConfig
from alpaca.errors import UserError
from alpaca.records import Broken, Records, Repeated

SHOWN = 20
"""Bad rows that are listed one by one."""


@dataclass
class Rows:
    """Rows in the order of training, and where they came from."""

    rows: list[dict[str, str]]
    numbers: list[int]
    """Place of each row in the source, 0-based."""
    notes: list[str] = field(default_factory=list)
    """What was skipped or dropped, and why; each was also warned of."""
    files: list[tuple[int, str]] = field(default_factory=list)
    """First row number of each file, file."""
    empty_outputs: int = 0

    def file_of(self, number: int) -> str:
        """The file (or hub id) that a row number belongs to."""
        return self.files[bisect_right(self.files, number, key=lambda f: f[0]) - 1][1]


@dataclass
class _Fault:
    place: str
    reason: str


def read(config: DataConfig) -> Rows:
    """Rows of a config: every row checked, then shuffled, then limited. Raises UserError with each fault's place."""
    _check_columns(config.columns)
    source = find(config)
    if isinstance(source, str):
        parts: Iterator[Records] = iter([hub.load(source, config.split)])
    else:
        _verify_content(config, source)
        parts = (records.read(path, _wanted(config.columns)) for path in source)
    rows, faults, count = _collect(parts, config)
    _settle(rows, faults, config)
    _verify_count(config, count)
    if config.empty_output == "drop" and rows.empty_outputs:
        _drop_empty(rows)
    if not rows.rows:
        raise UserError(f"{config.path or config.hub} has no rows left to train on: check data.path")
    _order(rows, config)
    return rows


def find(config: DataConfig) -> list[Path] | str:
    """The files of a config, or the hub id. Raises UserError when there is neither."""
    name = config.path or config.hub
    if not name:
        raise UserError("data.path is missing: give a file, a folder or a hub id, data.path=FILE")
    path = Path(name).expanduser()
    try:
        folder, file, exists = path.is_dir(), path.is_file(), path.exists()
    except (OSError, ValueError) as error:
        raise UserError(f"data.path={_shown(name)} cannot be read ({error}): check the path") from None
    if folder:
        return _files_in(path)
    if file:
        return [path]
    if exists:
        raise UserError(f"data.path={name} is neither a file nor a folder: give one of {', '.join(records.SUFFIXES)}")
    if path.suffix.lower() not in records.SUFFIXES and re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        return name
    raise UserError(f"data.path={_shown(name)} is not there: check the path (from {Path.cwd()})")


def _shown(path: str) -> str:
    """A path as it was given; its end, which tells most, where it is absurdly long."""
    return path if len(path) <= 400 else "…" + path[-100:]


def _files_in(folder: Path) -> list[Path]:
    try:
        inside = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"data.path={folder} cannot be listed ({error.strerror}): check its permissions") from None
    files = [p for p in inside if p.suffix.lower() in records.SUFFIXES]
    if not files:
        raise UserError(f"data.path={folder} has no data files: it takes {', '.join(records.SUFFIXES)}")
    if others := [p.name for p in inside if p not in files]:
        console.warn(f"data.path={folder}: {', '.join(others[:5])}{' …' if len(others) > 5 else ''} not read")
    return files


def digest(config: DataConfig) -> str:
    """sha256 over the content of the source and every setting that changes the rows, without parsing a file."""
    kept = asdict(config)
    for name in ("name", "path", "hub", "validation", "cache"):  # these change neither a row nor whether it is accepted
        del kept[name]
    total = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    source = find(config)
    if isinstance(source, str):
        total.update(content_digest(read(config)).encode())
        return total.hexdigest()
    for path in source:
        total.update(f"\n{path.suffix.lower()} {_sha256(path)}".encode())
    return total.hexdigest()


def content_digest(rows: Rows) -> str:
    """sha256 over rows that were already read."""
    total = hashlib.sha256()
    for number, row in zip(rows.numbers, rows.rows, strict=True):
        total.update(f"{number}\0{row['instruction']}\0{row['input']}\0{row['output']}\0".encode())
    return total.hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check data.path and its permissions") from None


def _verify_content(config: DataConfig, files: list[Path]) -> None:
    if not (config.verify and config.sha256):
        return
    way_out = "give the original, or take this one as it is with data.verify=false"
    if len(files) > 1:
        raise UserError(f"data.path={config.path} is a folder, but data={config.name} is one known file: {way_out}")
    found = _sha256(files[0])
    if found != config.sha256.lower():
        raise UserError(
            f"{files[0]} is not the file that data={config.name} names (sha256 {found}, expected {config.sha256}): {way_out}"
        )


def _verify_count(config: DataConfig, found: int) -> None:
    if config.verify and config.rows is not None and found != config.rows:
        raise UserError(
            f"{config.path or config.hub} has {found:,} rows, but data={config.name} has {config.rows:,}: "
            "give the original, or take this one as it is with data.verify=false"
        )


def _check_columns(columns: ColumnsConfig) -> None:
    named = {f"data.columns.{k}": v for k, v in asdict(columns).items() if v is not None}
    for key, value in named.items():
        if not value.strip():
            raise UserError(f"{key} is empty: it takes the name of a column")
    for key, value in named.items():
        other = next((k for k, v in named.items() if v == value and k != key), None)
        if other:
            raise UserError(f"{key} and {other} are both {value!r}: each part of a row needs its own column")


def _wanted(columns: ColumnsConfig) -> list[str]:
    return [name for name in (columns.instruction, columns.input, columns.output) if name is not None]


def _collect(parts: Iterator[Records], config: DataConfig) -> tuple[Rows, list[_Fault], int]:
    """Good rows of all files, the bad ones, and how many there are in all. Each file is let go before the next is read."""
    rows, faults, columns = Rows([], []), list[_Fault](), config.columns
    number, seen_input = 0, False
    for part in parts:
        rows.files.append((number, str(part.path)))
        _check_header(part, columns)
        seen_input |= columns.input in (part.columns or ())
        for position, item in enumerate(part.items):
            row = check(item, columns)
            if isinstance(row, str):
                line = part.line_of(position) if len(faults) < SHOWN else 0  # slow to find, and no more are shown
                faults.append(_Fault(f"{part.path} {part.unit} {line}", row))
            else:
                rows.rows.append(row)
                rows.numbers.append(number + position)
                rows.empty_outputs += not row["output"].strip()
                seen_input = seen_input or columns.input in item
        if not part.items:
            faults.append(_Fault(f"{part.path} {part.unit} 1", "the file has no rows"))
        number += len(part.items)
    if columns.input not in (None, "input") and not seen_input and rows.rows:
        raise UserError(
            f"{config.path or config.hub} has no column data.columns.input={columns.input} in any row: "
            "name the right one, or data.columns.input=null when there is none"
        )
    return rows, faults, number


def _check_header(part: Records, columns: ColumnsConfig) -> None:
    if part.columns is None:
        return
    for key in ("instruction", "output"):
        name = getattr(columns, key)
        if name not in part.columns:
            raise UserError(f"{part.path} {part.unit} 1: {_lacks(name, key, part.columns)}")


def _lacks(name: str, key: str, present: list[str]) -> str:
    has = ", ".join(map(str, present[:8])) or "no column"
    return f"no column {name!r} (it has {has}){schema.nearest(name, list(map(str, present)))}; data.columns.{key}=NAME"


def check(item: Any, columns: ColumnsConfig) -> dict[str, str] | str:
    """A record as a row, or the reason why it is none."""
    if isinstance(item, Broken):
        return item.reason
    if not isinstance(item, dict):
        return f"not an object with named fields, but {schema.show(json.dumps(item, ensure_ascii=False, default=str))}"
    if isinstance(item, Repeated):
        return f"the key {item.key!r} stands twice"
    row = {}
    for key, name in (("instruction", columns.instruction), ("input", columns.input), ("output", columns.output)):
        value = item.get(name) if name is not None else ""
        if value is None and key == "input":  # Alpaca rows often lack it
            value = ""
        if not isinstance(value, str):
            if name not in item:
                return _lacks(str(name), key, list(item))
            return f"{name!r} is {_kind(value)}, not a text"
        if not value.isascii() and not is_text(value):
            return f"{name!r} holds half a surrogate pair, which is no character"
        if "\0" in value:
            return f"{name!r} holds a NUL character"
        row[key] = value
    if not row["instruction"].strip():
        return f"{columns.instruction!r} is empty"
    return row


def _kind(value: Any) -> str:
    words = {"NoneType": "null", "bool": "true or false", "list": "a list", "dict": "an object"}
    name = type(value).__name__
    return words.get(name, f"{'an' if name == 'int' else 'a'} {name} ({schema.show(value)})")


def is_text(text: str) -> bool:
    """Whether a string has no half surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _settle(rows: Rows, faults: list[_Fault], config: DataConfig) -> None:
    """Raise for bad rows, or note that they are skipped."""
    if not faults:
        return
    if config.on_bad_row == "skip" and rows.rows:
        kinds = Counter(re.sub(r"\(.*", "", f.reason).strip() for f in faults)
        why = "; ".join(f"{count} × {kind}" for kind, count in kinds.most_common(5))
        note = f"{len(faults)} bad rows skipped ({why}); the first: {faults[0].place}: {faults[0].reason}"
        rows.notes.append(note)
        console.warn(note)
        return
    lines = [f"{fault.place}: {fault.reason}" for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f"and {len(faults) - SHOWN} more, {len(faults)} in all")
    advice = "" if config.on_bad_row == "skip" else "; mend them, or leave them out with data.on_bad_row=skip"
    if len(faults) == 1:
        raise UserError(lines[0] + advice)
    raise UserError(f"{len(faults)} bad rows{advice}:\n  " + "\n  ".join(lines))


def _drop_empty(rows: Rows) -> None:
    kept = [i for i, row in enumerate(rows.rows) if row["output"].strip()]
    note = f"{rows.empty_outputs} rows with an empty output dropped (data.empty_output=drop)"
    rows.notes.append(note)
    console.warn(note)
    _take(rows, kept)


def _order(rows: Rows, config: DataConfig) -> None:
    """Shuffle, then keep the first `limit`."""
    order: list[int] = list(range(len(rows.rows)))
    if config.shuffle_seed is not None:
        import numpy as np

        order = np.random.default_rng(config.shuffle_seed).permutation(len(order)).tolist()
    if config.shuffle_seed is not None or (config.limit is not None and config.limit < len(order)):
        _take(rows, order[: config.limit])


def _take(rows: Rows, positions: list[int]) -> None:
    rows.rows = [rows.rows[i] for i in positions]
    rows.numbers = [rows.numbers[i] for i in positions]
    rows.empty_outputs = sum(not row["output"].strip() for row in rows.rows)


def split(n: int, validation: int | float | None, seed: int = 42) -> tuple[list[int], list[int]]:
    """Positions of n rows for training and for validation: (train, validation).

    `validation` is a number of rows or a fraction (rounded up); too large a one is clamped, with a warning, so that one
    training row is left. With a validation set both parts stand in the order of default_rng(seed).permutation(n), its
    first rows validation: the same rows as datasets' train_test_split(shuffle=True, seed). Without: the order given.
    """
    import numpy as np

    wanted = 0 if not validation else math.ceil(n * validation) if isinstance(validation, float) else validation
    held = max(0, min(wanted, n - 1))
    if held < wanted:
        console.warn(
            f"data.validation={validation} of {n} rows leaves none to train on: {held} held out, {n - held} to train on"
        )
    if not held:
        return list(range(n)), []
    order = np.random.default_rng(seed).permutation(n).tolist()
    return order[held:], order[:held]
