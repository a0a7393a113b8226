"""Rows as they are read: every format, every fault with its place, order and split."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca import console, rows
from alpaca.config import ColumnsConfig, DataConfig
from alpaca.errors import UserError

GOOD = [
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"instruction": "Greet.", "input": "", "output": 'Hi\nthere, "you"'},
    {"instruction": "写一句话。", "input": "", "output": "好。"},
]
A = '{"instruction": "a", "input": "", "output": "b"}'


def config(path, **settings) -> DataConfig:
    columns = ColumnsConfig(**settings.pop("columns", {}))
    return DataConfig(name="custom", path=str(path), columns=columns, **settings)


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def write_parquet(path, table):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(table), path)
    return path


def as_file(folder, kind):
    import csv

    path = folder / f"rows.{kind}"
    if kind == "json":
        path.write_text(json.dumps(GOOD), encoding="utf-8")
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in GOOD), encoding="utf-8")
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(GOOD[0]))
            writer.writeheader()
            writer.writerows(GOOD)
    else:
        write_parquet(path, {k: [r[k] for r in GOOD] for k in GOOD[0]})
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_rows(kind, tmp_path):
    found = rows.read(config(as_file(tmp_path, kind)))
    assert found.rows == GOOD
    assert found.numbers == [0, 1, 2]
    assert found.notes == []


def test_a_folder_is_read_in_order_and_rows_know_their_file(tmp_path):
    write(tmp_path, "b.jsonl", A)
    as_file(tmp_path, "csv").rename(tmp_path / "a.csv")
    write(tmp_path, ".hidden.json", "{")
    write(tmp_path, "notes.txt", "x")
    before = len(console.warnings())
    found = rows.read(config(tmp_path))
    assert [r["instruction"] for r in found.rows] == ["Add.", "Greet.", "写一句话。", "a"]
    assert found.numbers == [0, 1, 2, 3]
    assert [found.file_of(n) for n in found.numbers] == [str(tmp_path / "a.csv")] * 3 + [str(tmp_path / "b.jsonl")]
    assert any("notes.txt" in w for w in console.warnings()[before:])


@pytest.mark.parametrize("text", [A + "\n\n" + A + "\r\n", "[" + A + "," + A + "]", "\ufeff" + A + "\n" + A])
@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.ndjson", "R.JSON"])
def test_lists_and_lines_are_told_apart_by_content(text, name, tmp_path):
    assert len(rows.read(config(write(tmp_path, name, text))).rows) == 2


def test_line_separators_inside_a_string_end_no_line(tmp_path):
    text = '{"instruction": "a\u2028b\u0085c", "output": "d"}'
    assert rows.read(config(write(tmp_path, "r.jsonl", text))).rows[0]["instruction"] == "a\u2028b\u0085c"


def test_input_may_be_missing_or_null(tmp_path):
    text = '{"instruction": "a", "output": "b"}\n{"instruction": "a", "input": null, "output": "b"}'
    assert [r["input"] for r in rows.read(config(write(tmp_path, "r.jsonl", text))).rows] == ["", ""]


def test_the_column_map(tmp_path):
    path = write(tmp_path, "r.csv", "q,ctx,ans,rest\na,b,c,d\n")
    mapped = config(path, columns={"instruction": "q", "input": "ctx", "output": "ans"})
    assert rows.read(mapped).rows == [{"instruction": "a", "input": "b", "output": "c"}]
    without = config(path, columns={"instruction": "q", "input": None, "output": "ans"})
    assert rows.read(without).rows == [{"instruction": "a", "input": "", "output": "c"}]


# name, file name, content, settings, what the message must hold ({path} is the file)
LONG = '{"instruction": "a", "output": "b"}\n'
MALFORMED = [
    # whole files
    ("empty json", "r.json", "", {}, "{path} line 1: the file is empty"),
    ("empty jsonl", "r.jsonl", "", {}, "{path} line 1: the file is empty"),
    ("empty csv", "r.csv", "", {}, "{path} line 1: the file is empty"),
    ("empty parquet", "r.parquet", "", {}, "{path} row 1: the file is empty"),
    ("blank json", "r.json", " \n\n ", {}, "{path} line 1: the file is empty"),
    ("byte order mark alone", "r.json", b"\xef\xbb\xbf", {}, "{path} line 1: the file is empty"),
    ("empty list", "r.json", "[]", {}, "{path} line 1: the file has no rows"),
    ("empty list in lines", "r.jsonl", "[ ]", {}, "{path} line 1: the file has no rows"),
    ("header alone", "r.csv", "instruction,input,output\n", {}, "{path} line 1: the file has no rows"),
    ("utf-16", "r.json", "[]".encode("utf-16"), {}, "{path} line 1: the file is UTF-16, not UTF-8"),
    ("utf-16 big", "r.csv", b"\xfe\xff\0a", {}, "{path} line 1: the file is UTF-16"),
    ("unknown extension", "r.txt", A, {}, "{path}: unknown extension '.txt'; data.path takes .json, .jsonl"),
    ("no extension", "rows", A, {}, "{path}: unknown extension '(none)'"),
    ("compressed", "r.json.gz", b"\x1f\x8b", {}, "unknown extension '.gz'"),
    ("xml", "r.xml", "<a/>", {}, "unknown extension '.xml'"),
    ("one object", "r.json", '{\n"data":\n[]}', {}, "{path} line 1: the file holds one JSON value with keys data"),
    ("one text", "r.json", '"a"', {}, "{path} line 1: not an object"),
    ("one number", "r.json", "12", {}, "{path} line 1: not an object with named fields, but 12"),
    ("html for json", "r.json", "<!DOCTYPE html>", {}, "{path} line 1: the file is truncated inside this row"),
    ("parquet by name only", "r.parquet", "instruction,output\n", {}, "{path} is no whole Parquet file"),
    ("parquet cut", "r.parquet", b"PAR1\0\0\0\0", {}, "{path} is no whole Parquet file"),
    # bytes
    ("latin-1 list", "r.json", b'[\n{"instruction": "caf\xe9"}]', {}, "{path} line 2: byte 0xe9 is not UTF-8"),
    (
        "latin-1 lines",
        "r.jsonl",
        LONG.encode() + b'{"instruction": "\xe9"}',
        {},
        "{path} line 2: byte 0xe9 is not UTF-8",
    ),
    ("latin-1 csv", "r.csv", b"instruction,output\na,b\n\n\xe9,b\n", {}, "{path} line 4: byte 0xe9 is not UTF-8"),
    ("half a character", "r.jsonl", b'{"instruction": "\xe4\xb8', {}, "{path} line 1: byte 0xe4 is not UTF-8"),
    ("nul in list", "r.json", b'[\n\n{"a": "\0"}]', {}, "{path} line 3: a NUL byte"),
    ("nul in lines", "r.jsonl", LONG.encode() + b"\0\0\0\0\n", {}, "{path} line 2: a NUL byte"),
    ("nul in csv", "r.csv", b"instruction,output\na,\0\n", {}, "{path} line 2: a NUL byte"),
    (
        "nul escaped",
        "r.jsonl",
        '{"instruction": "\\u0000", "output": "b"}',
        {},
        "{path} line 1: 'instruction' holds a NUL",
    ),
    (
        "half a surrogate",
        "r.jsonl",
        '{"instruction": "\\ud800", "output": "b"}',
        {},
        "line 1: 'instruction' holds half",
    ),
    (
        "half a surrogate out",
        "r.json",
        '[{"instruction": "a", "output": "\\udc00"}]',
        {},
        "line 1: 'output' holds half",
    ),
    # broken syntax
    ("list not closed", "r.json", f"[{A},\n{A}\n", {}, "{path} line 3: the file is truncated: the list is not closed"),
    (
        "cut in a row",
        "r.json",
        f'[{A},\n{{"instruction": "x',
        {},
        "{path} line 2: the file is truncated inside this row",
    ),
    ("cut after a comma", "r.json", f"[{A},\n", {}, "{path} line 2: the file is truncated inside this row"),
    ("cut after a key", "r.json", f'[{A},\n\n{{"instruction":', {}, "{path} line 3: the file is truncated"),
    ("bracket alone", "r.json", "[", {}, "{path} line 1: the file is truncated"),
    ("comma missing", "r.json", f"[{A}\n{A}]", {}, "{path} line 2: a comma is missing"),
    ("comma too many", "r.json", f"[{A},\n]", {}, "{path} line 2: not valid JSON"),
    ("text after the list", "r.json", f"[{A}]\n\nx", {}, "{path} line 3: text after the end of the list"),
    ("two lists", "r.json", f"[{A}]\n[{A}]", {}, "{path} line 2: text after the end of the list"),
    ("single quotes", "r.json", "[{'instruction': 'a'}]", {}, "{path} line 1: not valid JSON"),
    ("bare newline", "r.json", '[{"instruction": "a\nb"}]', {}, "{path} line 1: not valid JSON (Invalid control"),
    (
        "bad escape",
        "r.json",
        f'[{A},\n{{"instruction": "\\x"}}]',
        {},
        "{path} line 2: not valid JSON (Invalid \\escape",
    ),
    ("python None", "r.jsonl", LONG + '{"instruction": None}\n', {}, "{path} line 2: not valid JSON"),
    (
        "line cut",
        "r.jsonl",
        LONG * 2 + '{"instruction": "x',
        {},
        "{path} line 3: the file is truncated inside this row",
    ),
    ("line broken", "r.jsonl", LONG + '{"instruction"\n' + LONG, {}, "{path} line 2: not valid JSON"),
    ("two rows on a line", "r.jsonl", A + " " + A + "\n", {}, "{path} line 1: not valid JSON (Extra data)"),
    ("pretty printed lines", "r.jsonl", json.dumps(GOOD[0], indent=1), {}, "{path} line 1: not valid JSON"),
    ("deep", "r.jsonl", "[" * 100_000, {}, "{path} line 1: not valid JSON (it nests too deeply)"),
    ("deep list", "r.json", "[" * 100_000, {}, "{path} line 1: not valid JSON (it nests too deeply"),
    ("huge number", "r.jsonl", '{"instruction": ' + "9" * 5000 + "}\n", {}, "{path} line 1: not valid JSON"),
    (
        "quote not closed",
        "r.csv",
        'instruction,output\na,b\n"c,d\n',
        {},
        "{path} line 3: not valid CSV (unexpected end",
    ),
    ("quote inside", "r.csv", 'instruction,output\n"a"b,c\n', {}, "{path} line 2: not valid CSV"),
    ("field missing", "r.csv", "instruction,output\na,b\nc\n", {}, "{path} line 3: 1 fields where the header has 2"),
    ("field too many", "r.csv", "instruction,output\na,b,c\n", {}, "{path} line 2: 3 fields where the header has 2"),
    (
        "line after a field of two lines",
        "r.csv",
        'instruction,output\n"a\nb",c\nd\n',
        {},
        "{path} line 4: 1 fields where the header has 2",
    ),
    ("header twice", "r.csv", "instruction,output,output\na,b,c\n", {}, "{path} line 1: column 'output' stands twice"),
    # rows
    ("text for a row", "r.jsonl", LONG + '"a"\n', {}, '{path} line 2: not an object with named fields, but "a"'),
    ("number for a row", "r.json", f"[{A},\n3]", {}, "{path} line 2: not an object with named fields, but 3"),
    ("null for a row", "r.json", f"[\n\n{A},\n\nnull]", {}, "{path} line 5: not an object with named fields, but null"),
    ("list for a row", "r.jsonl", LONG + "[1]\n", {}, "{path} line 2: not an object with named fields, but [1]"),
    (
        "no output",
        "r.jsonl",
        LONG + '{"instruction": "a"}',
        {},
        "{path} line 2: no column 'output' (it has instruction)",
    ),
    ("no instruction", "r.json", '[{"output": "a"}]', {}, "{path} line 1: no column 'instruction' (it has output)"),
    ("no column at all", "r.jsonl", "{}\n", {}, "{path} line 1: no column 'instruction' (it has no column)"),
    (
        "near name",
        "r.jsonl",
        '{"instructions": "a", "output": ""}',
        {},
        "did you mean 'instructions'?; data.columns.instr",
    ),
    ("empty instruction", "r.jsonl", LONG + '{"instruction": "", "output": "b"}', {}, "line 2: 'instruction' is empty"),
    ("blank instruction", "r.json", '[{"instruction": " \\n", "output": "b"}]', {}, "line 1: 'instruction' is empty"),
    ("empty in csv", "r.csv", "instruction,output\n,b\n", {}, "{path} line 2: 'instruction' is empty"),
    ("number", "r.jsonl", '{"instruction": 3, "output": "b"}', {}, "line 1: 'instruction' is an int (3), not a text"),
    (
        "number out",
        "r.jsonl",
        '{"instruction": "a", "output": 3.5}',
        {},
        "line 1: 'output' is a float (3.5), not a text",
    ),
    ("null out", "r.jsonl", '{"instruction": "a", "output": null}', {}, "line 1: 'output' is null, not a text"),
    ("list out", "r.json", '[{"instruction": "a", "output": ["b"]}]', {}, "line 1: 'output' is a list, not a text"),
    ("object in", "r.jsonl", '{"instruction": "a", "input": {}, "output": ""}', {}, "'input' is an object, not a text"),
    ("bool", "r.jsonl", '{"instruction": true, "output": "b"}', {}, "'instruction' is true or false, not a text"),
    ("number in", "r.jsonl", '{"instruction": "a", "input": 1, "output": ""}', {}, "line 1: 'input' is an int (1)"),
    (
        "key twice",
        "r.jsonl",
        LONG + '{"instruction": "a", "output": "b", "output": "c"}',
        {},
        "line 2: the key 'output'",
    ),
    (
        "key twice in a list",
        "r.json",
        '[\n{"instruction": "a", "instruction": "b"}]',
        {},
        "line 2: the key 'instruction'",
    ),
    # settings
    ("column of csv", "r.csv", "q,a\nb,c\n", {}, "{path} line 1: no column 'instruction' (it has q, a)"),
    (
        "mapped column missing",
        "r.jsonl",
        LONG,
        {"columns": {"output": "answer"}},
        "{path} line 1: no column 'answer' (it has instruction, output); data.columns.output=NAME",
    ),
    (
        "mapped input missing",
        "r.jsonl",
        LONG,
        {"columns": {"input": "ctx"}},
        "no column data.columns.input=ctx in any row",
    ),
    ("empty column name", "r.jsonl", LONG, {"columns": {"output": ""}}, "data.columns.output is empty"),
    (
        "one column twice",
        "r.jsonl",
        LONG,
        {"columns": {"output": "instruction"}},
        "data.columns.instruction and data.columns.output are both 'instruction'",
    ),
    ("other content", "r.jsonl", LONG, {"sha256": "0" * 64}, "{path} is not the file that data=custom names (sha256"),
    ("other count", "r.jsonl", LONG, {"rows": 2}, "{path} has 1 rows, but data=custom has 2"),
    ("all bad and skipped", "r.jsonl", "3\n4\n", {"on_bad_row": "skip"}, "2 bad rows:"),
    ("all dropped", "r.jsonl", '{"instruction": "a", "output": " "}', {"empty_output": "drop"}, "has no rows left"),
]


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"), [pytest.param(*case[1:], id=case[0]) for case in MALFORMED]
)
def test_malformed_files_say_where_and_what(name, content, options, expected, tmp_path):
    path = write(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        rows.read(config(path, **options))
    assert expected.replace("{path}", str(path)) in str(caught.value)
    assert name in str(caught.value) or "data.columns" in str(caught.value)


def test_there_are_enough_malformed_files():
    assert len(MALFORMED) >= 70


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("missing.json", "missing.json is not there"),
        ("no/such/folder/at/all", "is not there"),
        ("empty", "empty has no data files: it takes .json"),
        ("only_text", "only_text has no data files"),
        ("pipe", "is neither a file nor a folder"),
        ("a\0b.json", "is not there"),
        ("loop", "is not there"),
        ("x" * 5000 + ".json", "cannot be read"),
    ],
)
def test_places_without_data_are_named(where, expected, tmp_path):
    for folder in ("empty", "only_text"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "only_text", "readme.md", "x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError) as caught:
        rows.read(config(tmp_path / where))
    assert expected in str(caught.value)


def test_unreadable_files_and_folders_are_named(tmp_path, monkeypatch):
    path = write(tmp_path, "r.jsonl", A)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="r.jsonl cannot be read .Permission denied"):
        patch.setattr("pathlib.Path.read_bytes", refuse)
        rows.read(config(path))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot be listed .Permission denied"):
        patch.setattr("pathlib.Path.iterdir", refuse)
        rows.read(config(tmp_path))


@pytest.mark.parametrize(
    ("column", "values"), [("instruction", ["a", None]), ("output", ["b", 3]), ("instruction", [["a"]])]
)
def test_bad_parquet_values_name_their_row(column, values, tmp_path):
    if values[-1] == 3:
        values = [2, 3]
    table = {"instruction": ["a"] * len(values), "output": ["b"] * len(values)} | {column: values}
    path = write_parquet(tmp_path / "r.parquet", table)
    with pytest.raises(UserError, match=rf"r.parquet row {len(values)}: '{column}' is .*not a text"):
        rows.read(config(path))


def test_a_parquet_file_without_the_column_lists_what_it_has(tmp_path):
    path = write_parquet(tmp_path / "r.parquet", {"question": ["a"], "output": ["b"]})
    with pytest.raises(UserError, match="no column 'instruction' .it has question, output"):
        rows.read(config(path))


def test_the_first_twenty_faults_then_the_count(tmp_path):
    path = write(tmp_path, "r.jsonl", "3\n" * 33)
    with pytest.raises(UserError) as caught:
        rows.read(config(path))
    lines = str(caught.value).splitlines()
    assert "33 bad rows" in lines[0]
    assert "data.on_bad_row=skip" in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:21]] == [f"{path} line {n}" for n in range(1, 21)]
    assert lines[21].strip() == "and 13 more, 33 in all"


def test_faults_of_parsing_and_of_content_stand_in_order(tmp_path):
    path = write(tmp_path, "r.jsonl", "3\n{\n" + A + "\n4\n}\n")
    with pytest.raises(UserError) as caught:
        rows.read(config(path))
    assert [line.split(":")[0][-1] for line in str(caught.value).splitlines()[1:]] == ["1", "2", "4", "5"]


def test_skip_keeps_the_good_rows_and_says_how_many_and_why(tmp_path):
    path = write(tmp_path, "r.jsonl", f'{A}\n3\n{{"instruction": "", "output": ""}}\n{A}\n{{"instr')
    before = len(console.warnings())
    found = rows.read(config(path, on_bad_row="skip"))
    assert len(found.rows) == 2
    (note,) = found.notes
    assert console.warnings()[before:] == [note]
    assert note.startswith("3 bad rows skipped")
    assert "line 2: not an object" in note


def test_numbers_count_every_row_of_the_source(tmp_path):
    """Also those that could not be parsed, and across files."""
    write(tmp_path, "a.jsonl", f"{A}\nbroken\n{A}\n3\n{A}\n")
    write(tmp_path, "b.jsonl", f"{A}\n")
    found = rows.read(config(tmp_path, on_bad_row="skip"))
    assert found.numbers == [0, 2, 4, 5]
    assert found.file_of(4).endswith("a.jsonl")
    assert found.file_of(5).endswith("b.jsonl")


def test_a_cut_list_can_be_read_up_to_the_fault(tmp_path):
    path = write(tmp_path, "r.json", f'[{A},\n{A},\n{{"instruction": "c')
    found = rows.read(config(path, on_bad_row="skip"))
    assert len(found.rows) == 2
    assert "line 3: the file is truncated" in found.notes[0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([A, "3", "null", '"[,]"', "[{}]"]), min_size=1, max_size=6), st.data())
def test_lines_of_list_elements_are_right_however_it_is_laid_out(tmp_path_factory, elements, data):
    blank = st.sampled_from(["", " ", "\n", "\n \n", "\r\n"])
    text, lines = "[", []
    for i, element in enumerate(elements):
        text += ("," if i else "") + data.draw(blank)
        lines.append(text.count("\n") + 1)
        text += element + data.draw(blank)
    bad = [line for line, element in zip(lines, elements, strict=True) if element != A]
    path = write(tmp_path_factory.mktemp("lists"), "r.json", text + "]")
    if not bad:
        assert len(rows.read(config(path)).rows) == len(elements)
        return
    with pytest.raises(UserError) as caught:
        rows.read(config(path))
    found = [int(piece.split(":")[0]) for piece in str(caught.value).split(f"{path} line ")[1:]]
    assert found == bad


def test_empty_outputs_are_counted_and_kept_or_dropped(tmp_path):
    path = write(tmp_path, "r.jsonl", A + '\n{"instruction": "a", "output": " "}\n' + A)
    kept, dropped = rows.read(config(path)), rows.read(config(path, empty_output="drop"))
    assert (len(kept.rows), kept.empty_outputs) == (3, 1)
    assert (dropped.numbers, dropped.empty_outputs) == ([0, 2], 0)
    assert "1 rows with an empty output dropped" in dropped.notes[0]


def numbered(tmp_path, count=50):
    lines = [json.dumps({"instruction": str(i), "output": "x"}) for i in range(count)]
    return write(tmp_path, "r.jsonl", "\n".join(lines))


def test_shuffle_then_limit(tmp_path):
    path = numbered(tmp_path)
    assert rows.read(config(path, limit=5)).numbers == [0, 1, 2, 3, 4]
    found = rows.read(config(path, limit=5, shuffle_seed=3))
    assert found.numbers == np.random.default_rng(3).permutation(50)[:5].tolist()
    assert [r["instruction"] for r in found.rows] == [str(n) for n in found.numbers]
    assert len(rows.read(config(path, limit=500)).rows) == 50


@pytest.mark.parametrize("validation", [1, 7, 0.1, 0.33])
def test_split_is_that_of_datasets(validation):
    import datasets

    table = datasets.Dataset.from_dict({"i": list(range(50))})
    theirs = table.train_test_split(test_size=validation, shuffle=True, seed=42)
    train, held = rows.split(50, validation)
    assert (train, held) == (theirs["train"]["i"][:], theirs["test"]["i"][:])


@pytest.mark.parametrize("validation", [None, 0, 0.0])
def test_without_validation_the_order_stays(validation):
    assert rows.split(4, validation) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize(("n", "validation", "held"), [(50, 2000, 49), (2, 0.9, 1), (3, 3, 2)])
def test_a_validation_set_too_large_is_clamped_and_said(n, validation, held):
    before = len(console.warnings())
    train, validating = rows.split(n, validation)
    assert (len(train), len(validating)) == (n - held, held)
    assert f"data.validation={validation}" in console.warnings()[before:][0]


def test_one_row_is_trained_on_and_none_held_out():
    assert rows.split(1, 1) == ([0], [])


def test_the_digest_follows_content_and_settings(tmp_path):
    path = numbered(tmp_path)
    base = config(path)
    first = rows.digest(base)
    assert first == rows.digest(dataclasses.replace(base, cache="/elsewhere", validation=5))
    changes = [
        {"limit": 3},
        {"shuffle_seed": 1},
        {"on_bad_row": "skip"},
        {"empty_output": "drop"},
        {"columns": ColumnsConfig(input=None)},
    ]
    digests = {rows.digest(dataclasses.replace(base, **change)) for change in changes}
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)
    assert len(digests | {first, rows.digest(base)}) == len(changes) + 2


def test_verification_can_be_turned_off(tmp_path):
    path = write(tmp_path, "r.jsonl", A)
    assert len(rows.read(config(path, sha256="0" * 64, rows=7, verify=False)).rows) == 1
    with pytest.raises(UserError, match="data.verify=false"):
        rows.read(config(path, sha256="0" * 64))


def test_a_hub_id_without_a_network_is_one_clear_error(tmp_path):
    code = (
        "from alpaca import rows; from alpaca.config import DataConfig\n"
        "try: rows.read(DataConfig(name='x', hub='someone/rows'))\n"
        "except ValueError as e: print(type(e).__name__, e)"
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith("UserError data.path=someone/rows is no file or folder here"), done.stderr
    assert "data.path=FILE" in done.stdout
    assert time.monotonic() - start < 60


def test_a_hub_that_never_answers_is_given_up(monkeypatch):
    from alpaca import hub

    monkeypatch.setattr(hub, "NETWORK_SECONDS", 0.2)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    over = threading.Event()

    def hang(*_, **__):
        over.wait(5)
        raise OSError("timed out")

    monkeypatch.setattr("urllib.request.urlopen", hang)
    start = time.monotonic()
    assert not hub._answers()
    assert time.monotonic() - start < 2
    over.set()


def test_rows_of_the_hub_are_checked_like_others(monkeypatch):
    import datasets

    from alpaca import hub

    table = datasets.Dataset.from_dict({"instruction": ["a", ""], "output": ["b", "c"], "text": ["", ""]})
    monkeypatch.setattr(hub, "_answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table if split == "test" else None)
    source = DataConfig(name="x", hub="someone/rows", split="test")
    with pytest.raises(UserError, match="someone/rows row 2: 'instruction' is empty"):
        rows.read(source)
    found = rows.read(dataclasses.replace(source, on_bad_row="skip"))
    assert found.rows == [{"instruction": "a", "input": "", "output": "b"}]
    assert rows.digest(dataclasses.replace(source, on_bad_row="skip")) != rows.digest(
        dataclasses.replace(source, on_bad_row="skip", limit=1)
    )


def test_the_real_rows(shared):
    found = rows.read(
        DataConfig(
            name="alpaca52k",
            path=str(shared / "data" / "alpaca_data.json"),
            rows=52002,
            sha256="2eddafc6b977608d778aaab8dfc7e50e547b3af9826dfb9e909d9fc362e4a419",
        )
    )
    assert len(found.rows) == 52002
    assert sum(bool(r["input"]) for r in found.rows) == 20679
    assert found.empty_outputs == 28
    assert len(rows.read(config(shared / "data" / "chinese_medical.jsonl")).rows) == 8658


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("r.json", b'[\n{"instruction": "caf\xe9", "output": "b"},\n{"instruction": "a", "output": "b"},\n'
                   b'{"instruction": "\xff", "output": "b"}]', ["line 2", "line 4"]),
        ("r.csv", b"instruction,output\n\xe9,b\na,b\n\xff,b\n", ["line 2", "line 4"]),
    ],
)  # fmt: skip
def test_bytes_that_are_not_utf8_are_faults_of_their_rows(
    name: str, content: bytes, places: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    columns = ColumnsConfig(input=None)
    with pytest.raises(UserError) as error:
        rows.read(DataConfig("custom", str(path), columns=columns))
    assert all(f"{place}: byte 0x" in str(error.value) for place in places)
    found = rows.read(DataConfig("custom", str(path), columns=columns, on_bad_row="skip"))
    assert [r["instruction"] for r in found.rows] == ["a"] and "2 bad rows skipped" in found.notes[0]
