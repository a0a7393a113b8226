"""What is on the disk after anything that may have happened to it."""

import json
from pathlib import Path

import pytest

from alpaca.errors import UserError
from alpaca.generation.journal import Journal, write_beside


def reopened(path: Path) -> list[object]:
    journal = Journal(path)
    journal.close()
    return list(journal.entries)


def test_every_way_a_file_can_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, first, second = tmp_path / "j", {"kind": "a", "text": "é\n\u2028"}, {"kind": "b"}
    journal = Journal(path)
    for entry in (first, second):
        journal.append(entry)
    journal.close()
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        found = reopened(path)
        lines = whole[:end].count(b"\n")
        complete = end + 1 == len(whole) or end == whole.index(b"\n")  # all of a line but its end is not lost
        assert found == [first, second][: lines + complete], whole[:end]
        assert path.read_bytes() == b"".join(line + b"\n" for line in whole.split(b"\n")[: lines + complete])
    assert "torn" in capsys.readouterr().err


def test_a_line_in_the_midst_that_is_no_entry_is_refused(tmp_path: Path) -> None:
    for line in ("5", "{broken", '{"no": "kind"}', "null"):
        (tmp_path / "j").write_text(f"{line}\n{json.dumps({'kind': 'a'})}\n")
        with pytest.raises(UserError, match="line 1 is no line of a journal"):
            Journal(tmp_path / "j")


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    write_beside(path, "old")
    write_beside(path, b"\x00new")
    assert path.read_bytes() == b"\x00new" and [p.name for p in tmp_path.iterdir()] == ["rows"]
    with pytest.raises(UserError, match="cannot be written"):
        write_beside(tmp_path / "no" / "rows", "x")
