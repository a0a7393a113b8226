"""python benchmarks/startup.py: how long the command line takes to answer without running anything."""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import record  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=7, help="times each is run; the median counts")
    record.option(parser)
    arguments = parser.parse_args()
    lines = []
    for words, bar in ((["--cfg", "job"], 0.4), (["--help"], 0.7)):
        seconds = []
        for _ in range(arguments.count):
            start = time.perf_counter()
            subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, check=True)
            seconds.append(time.perf_counter() - start)
        lines.append([f"train.py {' '.join(words)}", f"{statistics.median(seconds):.2f} s", f"{bar} s"])
    body = record.table(["command", "median", "aim"], lines)
    record.section("The command line", body, arguments.record, ("hydra-core",))


if __name__ == "__main__":
    main()
