"""Preparing 52,002 rows, cold and warm, beside the original's way (each row tokenised twice, one at a time).

python benchmarks/prepare_data.py alpaca_data.json TOKENIZER_FOLDER

The original's way is timed on a sample of rows in the same process and extrapolated to all of them.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alpaca import data, rows, tokenizer
from alpaca.prompts import Prompt
from tests.helpers import compose

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
    path, folder = sys.argv[1:3]
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
    print(f"rows                 {len(found):,}")
    print(f"original's way       {before:8.2f} s (extrapolated from {SAMPLE} rows)")
    for name, seconds in zip(("cold", "warm"), times, strict=True):
        print(f"here, {name:<14} {seconds:8.2f} s   {before / seconds:8.1f} times faster")


if __name__ == "__main__":
    main()
