"""One data file as a list of records, each with its place: JSON list, JSON Lines, CSV, Parquet.

Knows nothing of instructions and outputs. The good case is parsed in one go; lines are counted only after a fault.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca.errors import UserError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet")
TABLES = (".csv", ".parquet")
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_STRAY = re.compile("[\udc80-\udcff]")
_BLANK = " \t\r\n"


class Repeated(dict):
    """An object in which a key stands twice, so that one of its values would be lost unseen."""

    key: str


@dataclass
class Broken:
    """Stands for a record that could not be parsed."""

    reason: str


@dataclass
class Records:
    """The records of a file, as they were parsed (an object, whatever else stood there, or Broken)."""

    path: Path
    items: list[Any]
    line_of: Callable[[int], int]
    """Position in `items` -> 1-based line (of a Parquet file: row)."""
    columns: list[str] | None = None
    """The header, where the format has one."""
    unit: str = "line"


def read(path: Path, wanted: list[str] | None) -> Records:
    """The records of a file by its extension; of a Parquet file only the `wanted` columns (None: all).

    Raises UserError for a file that cannot be opened, is empty, is no text, or has an unknown extension.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"{path}: unknown extension {suffix or '(none)'!r}; data.path takes {', '.join(SUFFIXES)} or a folder of them"
        )
    if suffix == ".parquet":
        return _parquet(path, wanted)
    raw = content(path)
    if raw[:2] in _BOMS:
        raise UserError(f"{path} line 1: the file is {_BOMS[raw[:2]]}, not UTF-8: convert it (iconv -t UTF-8)")
    raw = raw.removeprefix(b"\xef\xbb\xbf")  # spreadsheets write this mark; it means nothing in UTF-8
    if not raw.strip():
        raise UserError(f"{path} line 1: the file is empty")
    if suffix == ".csv":
        return _csv(path, _text(path, raw))
    return _json(path, raw)


def table(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line, row) of a CSV or Parquet file, all columns; values that JSON has no form for become texts.

    Raises UserError for a file or a row that cannot be read.
    """
    found = read(path, None)
    rows = []
    for position, item in enumerate(found.items):
        line = found.line_of(position)
        if isinstance(item, Broken):
            raise UserError(f"{path} {found.unit} {line}: {item.reason}")
        rows.append((line, json.loads(json.dumps(item, default=str))))
    return rows


def content(path: Path) -> bytes:
    """The bytes of a regular file. Raises UserError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check data.path and its permissions") from None


def _text(path: Path, raw: bytes) -> str:
    """The text of a file; bytes that are not UTF-8 become half surrogates, which `_without_stray` turns into faults."""
    text = raw.decode("utf-8", "surrogateescape")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path} line {line}: a NUL byte: the file is damaged or no text; copy it again")
    return text


def _without_stray(items: list[Any], text: str) -> list[Any]:
    """The items, with Broken in place of those that hold a byte which is not UTF-8."""
    if not _STRAY.search(text):
        return items
    checked = []
    for item in items:
        found = None if isinstance(item, Broken) else _STRAY.search(json.dumps(item, ensure_ascii=False))
        checked.append(Broken(f"byte 0x{ord(found[0]) - 0xDC00:02x} is not UTF-8") if found else item)
    return checked


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    names = [name for name, _ in pairs]
    repeated = Repeated(record)
    repeated.key = next(name for name in names if names.count(name) > 1)
    return repeated


def _parse(text: str) -> Any:
    """A JSON value. Raises ValueError, also for what nests too deeply."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _json(path: Path, raw: bytes) -> Records:
    """A JSON list, or JSON Lines whatever the extension says: both stand in files called .json."""
    is_list = raw.lstrip()[:1] == b"["
    if not is_list:
        return _json_lines(path, raw)
    if path.suffix.lower() == ".json":
        return _json_list(path, _text(path, raw))
    try:
        return _json_list(path, raw.decode("utf-8")) if isinstance(json.loads(raw), list) else _json_lines(path, raw)
    except (ValueError, RecursionError):
        return _json_lines(path, raw)


def _json_list(path: Path, text: str) -> Records:
    try:
        items = _parse(text)
    except ValueError:
        return _json_list_until_fault(path, text)
    starts: list[int] = []

    def line_of(position: int) -> int:
        if not starts:
            starts.extend(_elements(text)[1])
        return text.count("\n", 0, starts[position]) + 1

    return Records(path, _without_stray(items, text), line_of)


def _json_list_until_fault(path: Path, text: str) -> Records:
    items, starts, stop, why = _elements(text)
    places = [*starts, stop]
    items.append(Broken(f"{why}; nothing after it can be read"))
    return Records(path, _without_stray(items, text), lambda position: text.count("\n", 0, places[position]) + 1)


def _elements(text: str) -> tuple[list[Any], list[int], int, str]:
    """Elements of a JSON list one by one: values, where each starts, where a fault stands, what it is."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    items: list[Any] = []
    starts: list[int] = []
    at = _skip_blank(text, text.index("[") + 1)
    if text[at : at + 1] == "]":
        return items, starts, *_after_list(text, at + 1)
    while True:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            return items, starts, *_explain(text, at, error)
        items.append(value)
        starts.append(at)
        at = _skip_blank(text, end)
        if text[at : at + 1] == "]":
            return items, starts, *_after_list(text, at + 1)
        if text[at : at + 1] != ",":
            cut = at >= len(text)
            return items, starts, at, "the file is truncated: the list is not closed" if cut else "a comma is missing"
        at = _skip_blank(text, at + 1)


def _after_list(text: str, at: int) -> tuple[int, str]:
    at = _skip_blank(text, at)
    return (at, "text after the end of the list") if at < len(text) else (at, "")


def _explain(text: str, start: int, error: Exception) -> tuple[int, str]:
    """Where a fault is and what: (offset, reason)."""
    if not isinstance(error, json.JSONDecodeError):
        return start, "not valid JSON (it nests too deeply, or a number is too long)"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return start, "the file is truncated inside this row"
    return error.pos, f"not valid JSON ({error.msg})"


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def _json_lines(path: Path, raw: bytes) -> Records:
    items: list[Any] = []
    lines: list[int] = []
    pieces = raw.split(b"\n")  # not splitlines: U+2028 may stand inside a string
    for number, piece in enumerate(pieces, 1):
        if not (piece := piece.strip()):
            continue
        lines.append(number)
        try:
            items.append(_parse(piece.decode("utf-8")))
        except ValueError as error:
            last = number == len(pieces)  # a whole file ends its last line
            items.append(Broken(_line_fault(piece, error, last)))
    if path.suffix.lower() == ".json" and all(isinstance(item, Broken) for item in items):
        _refuse_single_value(path, raw)
    return Records(path, items, lines.__getitem__)


def _line_fault(piece: bytes, error: ValueError, last: bool) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{piece[error.start]:02x} is not UTF-8"
    if b"\0" in piece:
        return "a NUL byte"
    if isinstance(error, json.JSONDecodeError):
        return f"the file is truncated inside this row ({error.msg})" if last else f"not valid JSON ({error.msg})"
    return f"not valid JSON ({error})"


def _refuse_single_value(path: Path, raw: bytes) -> None:
    try:
        value = _parse(raw.decode("utf-8"))
    except ValueError:
        return
    keys = f" with keys {', '.join(list(value)[:8])}" if isinstance(value, dict) else ""
    raise UserError(f"{path} line 1: the file holds one JSON value{keys}, not a list of rows: write [row, row, …]")


def _csv(path: Path, text: str) -> Records:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    items: list[Any] = []
    lines: list[int] = []
    header: list[str] = []
    start = 1
    try:
        for fields in reader:
            if not header:
                header = fields
                _check_header(path, header)
            elif fields:
                items.append(_record(header, fields))
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        items.append(Broken(f"not valid CSV ({error}); nothing after it can be read"))
        lines.append(start)
    return Records(path, _without_stray(items, text), lines.__getitem__, header)


def _record(header: list[str], fields: list[str]) -> dict[str, str] | Broken:
    if len(fields) != len(header):
        return Broken(f"{len(fields)} fields where the header has {len(header)}")
    return dict(zip(header, fields, strict=True))


def _check_header(path: Path, header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path} line 1: column {twice[0]!r} stands twice in the header: rename one")


def _parquet(path: Path, wanted: list[str] | None) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.stat().st_size == 0:
        raise UserError(f"{path} row 1: the file is empty")
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            items = file.read(columns=[name for name in names if wanted is None or name in wanted]).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:150]
        raise UserError(f"{path} is no whole Parquet file ({reason}): it may be truncated; copy it again") from None
    return Records(path, items, lambda position: position + 1, columns=names, unit="row")
