"""python benchmarks/generation_overhead.py [rows.json]: what the client adds to the time that the teacher needs.

A server in its own process answers each request after 200 ms with 20 rows; 16 requests are in flight and the pool holds
the rows of a file. The server alone would need (requests / 16, rounded up) x 200 ms. What is timed is from the first
request sent to the last reply answered (as the server sees it), and the whole of the command beside it.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.generation.conftest import Teacher, made_rows  # noqa: E402

DEFAULT = Path(os.environ.get("ALPACA_SHARED", "../shared")) / "data" / "alpaca_data.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", default=DEFAULT)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("more", nargs="*", help="overrides such as dedupe.mean=false")
    arguments, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Teacher(Path(folder), made_rows(60_000), {"latency": arguments.latency})
        for name, options in (("as it is", []), ("without nearest and mean", ["dedupe.nearest=0"])):
            before, start = server.stats(), time.perf_counter()
            fixed = [f"num_instructions={arguments.rows}", f"dedupe.against=[{arguments.path}]", "report=false"]
            fixed += [f"teacher.concurrency={arguments.concurrency}"]
            done = server.run(Path(folder) / f"{len(options)}.jsonl", *fixed, *options, *more)
            wall = time.perf_counter() - start
            assert done.returncode == 0, done.stderr
            after = server.stats()
            times = after["times"][before["requests"] :]
            requests = len(times)
            alone = math.ceil(requests / arguments.concurrency) * arguments.latency
            asking = times[-1] + arguments.latency - times[0]
            rows = json.loads(done.stdout.splitlines()[-1])["rows"]
            print(
                f"{name}: {rows:,} rows, {requests} requests; server alone {alone:.2f} s; asking {asking:.2f} s "
                f"({asking / alone - 1:+.1%}); the whole command {wall:.2f} s ({wall / alone - 1:+.1%})"
            )
        server.process.kill()


if __name__ == "__main__":
    main()
