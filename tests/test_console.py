"""stdout is for results: what a library prints or logs there goes to stderr."""

import logging
import sys

import pytest

from alpaca import console


def test_what_libraries_print_or_log_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with console.results_only_on_stdout():
        print("printed by a library")
        handler = logging.StreamHandler(sys.stdout)  # deepspeed's logger takes stdout when it is imported
        handler.emit(logging.makeLogRecord({"msg": "logged by a library"}))
    print("answer")
    said = capsys.readouterr()
    assert said.out == "answer\n"
    assert "printed by a library" in said.err and "logged by a library" in said.err
