"""A finished run to text: what the small runs that other tests share know by heart."""

from pathlib import Path

from alpaca.inference import Sampling, load_run
from alpaca.results import RunFolder
from tests.tiny import TINY_ROWS


def test_the_tiny_run_recites_its_rows_and_the_lora_on_it_says_them_backwards(
    tiny_run: Path, tiny_lora_run: Path
) -> None:
    answers = load_run(RunFolder(tiny_run)).answer(TINY_ROWS, Sampling())
    assert [a.text for a in answers] == [r["output"] for r in TINY_ROWS]
    backwards = load_run(RunFolder(tiny_lora_run)).answer(TINY_ROWS, Sampling())
    assert [a.text.split()[::-1] for a in backwards] == [r["output"].split() for r in TINY_ROWS]
