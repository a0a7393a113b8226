"""Preparing 52,002 rows, cold and warm, beside the original's way (each row tokenised twice, one at a time).

python benchmarks/prepare_data.py [alpaca_data.json] [--tokenizer opt] [--record none]

The original's way is timed in the same process on a sample of rows, half of it before and half of it after, and
extrapolated to all of them. Beside the time by the clock stands that of the processors, which other load changes less.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from alpaca import data, rows, tokenizer  # noqa: E402
from alpaca.prompts import Prompt  # noqa: E402
from benchmarks import record  # noqa: E402
from tests.commands import compose  # noqa: E402


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """(seconds by the clock, seconds of all processors) that a piece of work takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def original(sample: list[dict[str, str]], prompt: Prompt, tok: Any) -> None:
    """Tokenise the rows as Stanford Alpaca's train.py does."""
    for row in sample:
        source = prompt.render(row["instruction"], row["input"])
        for text in (source + row["output"] + tok.eos_token, source):
            tok(text, return_tensors="pt", padding="longest", max_length=512, truncation=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("ALPACA_SHARED", ROOT.parent / "shared"))
    parser.add_argument("path", nargs="?", default=str(shared / "data" / "alpaca_data.json"))
    parser.add_argument("--tokenizer", default="llama", help="a folder, or the name of one in $ALPACA_SHARED")
    parser.add_argument("--sample", type=int, default=1000, help="rows on which the original's way is timed")
    parser.add_argument("--rows", type=int, default=None, help="prepare the first rows alone")
    record.option(parser)
    arguments = parser.parse_args()
    folder = Path(arguments.tokenizer)
    tok = tokenizer.load_tokenizer(str(folder if folder.is_dir() else shared / "tokenizers" / folder))
    tokenizer.check_special_tokens(tok)
    limit = "null" if arguments.rows is None else arguments.rows
    with tempfile.TemporaryDirectory() as cache:
        source = [f"data.path={arguments.path}", f"data.limit={limit}", f"data.cache={cache}"]
        config = compose("data=custom", *source)
        prompt = Prompt.from_config(config.prompt)
        found = rows.read(config.data).rows
        sample = found[:: max(1, len(found) // arguments.sample)][: arguments.sample]
        before, after = sample[::2], sample[1::2]
        original(sample[:20], prompt, tok)  # warm
        first = seconds(lambda: original(before, prompt, tok))
        cold, warm = (seconds(lambda: data.prepare(config, tok, prompt)) for _ in range(2))
        second = seconds(lambda: original(after, prompt, tok))
    factor = len(found) / len(sample)
    old = [(a + b) * factor for a, b in zip(first, second, strict=True)]
    lines = []
    for name, new in (("cold", cold), ("warm", warm)):
        for what, slow, fast in zip(("by the clock", "of processors"), old, new, strict=True):
            figures = [f"{slow:.2f} s", f"{fast:.2f} s", f"{slow / fast:,.1f} times faster"]
            lines.append([f"{len(found):,} rows, {name}, {what}", *figures])
    about = (
        f"{Path(arguments.path).name}. The original's way is timed on "
        f"{len(sample):,} rows in the same process, half of them before and half after, and extrapolated to all."
    )
    body = record.table(["work", "each row twice, one at a time", "here", "ratio"], lines)
    packages = ("tokenizers", "transformers", "pyarrow")
    title = f"Preparing the data, {folder.name} tokenizer"
    record.section(title, f"{about}\n\n{body}", arguments.record, packages)


if __name__ == "__main__":
    main()
