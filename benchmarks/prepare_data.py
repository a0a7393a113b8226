"""Preparing 52,002 rows, cold and warm, beside the original's way (each row tokenised twice, one at a time).

python benchmarks/prepare_data.py [alpaca_data.json TOKENIZER_FOLDER] [--record none]

The original's way is timed on a sample of rows in the same process and extrapolated to all of them.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from alpaca import data, rows, tokenizer  # noqa: E402
from alpaca.prompts import Prompt  # noqa: E402
from benchmarks import record  # noqa: E402
from tests.helpers import compose  # noqa: E402

SAMPLE = 500


def original_seconds(found: list[dict[str, str]], prompt: Prompt, tok: object) -> float:
    sample = found[:: max(1, len(found) // SAMPLE)][:SAMPLE]
    start = time.perf_counter()
    for row in sample:
        source = prompt.render(row["instruction"], row["input"])
        for text in (source + row["output"] + tok.eos_token, source):
            tok(text, return_tensors="pt", padding="longest", max_length=512, truncation=True)
    return (time.perf_counter() - start) / len(sample) * len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("ALPACA_SHARED", ROOT.parent / "shared"))
    parser.add_argument("path", nargs="?", default=str(shared / "data" / "alpaca_data.json"))
    parser.add_argument("tokenizer", nargs="?", default=str(shared / "tokenizers" / "llama"))
    record.option(parser)
    arguments = parser.parse_args()
    path, folder, target = arguments.path, arguments.tokenizer, arguments.record
    tok = tokenizer.load_tokenizer(folder)
    tokenizer.check_special_tokens(tok)
    with tempfile.TemporaryDirectory() as cache:
        config = compose("data=alpaca52k", f"data.path={path}", f"data.cache={cache}")
        prompt = Prompt.from_config(config.prompt)
        found = rows.read(config.data).rows
        before = original_seconds(found, prompt, tok)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            data.prepare(config, tok, prompt)
            times.append(time.perf_counter() - start)
    lines = []
    for name, seconds in zip(("cold", "warm"), times, strict=True):
        lines.append(
            [
                f"{len(found):,} rows, {name}",
                f"{before:.2f} s",
                f"{seconds:.2f} s",
                f"{before / seconds:,.0f} times faster",
            ]
        )
    about = f"The original's way is timed on {SAMPLE} rows in the same process and extrapolated to all."
    body = record.table(["work", "each row twice, one at a time", "here", "ratio"], lines)
    packages = ("tokenizers", "transformers", "pyarrow")
    record.section("Preparing the data", f"{about}\n\n{body}", target, packages)


if __name__ == "__main__":
    main()
