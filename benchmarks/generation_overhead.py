"""python benchmarks/generation_overhead.py [rows.json]: what the client adds to the time that the teacher needs.

A server in its own process answers each request after 200 ms with 20 rows; 16 requests are in flight and the pool holds
the rows of a file. Three times for the same number of requests: what the latency alone makes of them (requests / 16,
rounded up, x 200 ms); what the server needs when a client of bare sockets throws its replies away; and ours, from the
first request sent to the last reply answered (as the server sees it), with the whole of the command beside it.
"""

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import record  # noqa: E402
from tests.generation.conftest import Teacher, made_rows  # noqa: E402

DEFAULT = Path(os.environ.get("ALPACA_SHARED", "../shared")) / "data" / "alpaca_data.json"


async def bare(address: str, requests: int, concurrency: int) -> float:
    """Seconds that the server needs for as many requests over bare sockets, a reply read to its end and forgotten."""
    host, _, port = address.removeprefix("http://").partition(":")
    body = json.dumps({"model": "teacher-1", "messages": [{"role": "user", "content": "x" * 3000}], "max_tokens": 3072})
    left = iter(range(requests))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for number in left:
            text = body.replace("xxxxxxxx", f"{number:08}", 1)
            writer.write(
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode()
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(concurrency)))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", default=DEFAULT)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--more", nargs="*", default=[], help="overrides such as dedupe.mean=false")
    record.option(parser)
    arguments = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        server = Teacher(Path(folder), made_rows(60_000), {"latency": arguments.latency})
        for name, options in (("as it is", []), ("without nearest and mean", ["dedupe.nearest=0"])):
            before, start = server.stats(), time.perf_counter()
            fixed = [f"num_instructions={arguments.rows}", f"dedupe.against=[{arguments.path}]", "report=false"]
            fixed += [f"teacher.concurrency={arguments.concurrency}"]
            words = server.arguments(Path(folder) / f"{len(options)}.jsonl", *fixed, *options, *arguments.more)
            done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
            wall = time.perf_counter() - start
            assert done.returncode == 0, done.stderr
            after = server.stats()
            times = after["times"][before["requests"] :]
            requests = len(times)
            alone = math.ceil(requests / arguments.concurrency) * arguments.latency
            asking = times[-1] + arguments.latency - times[0]
            server_alone = asyncio.run(bare(server.address, requests, arguments.concurrency))
            rows = json.loads(done.stdout.splitlines()[-1])["rows"]
            figures = [f"{alone:.2f} s", f"{server_alone:.2f} s", f"{asking:.2f} s ({asking / alone - 1:+.1%})"]
            figures += [f"{asking / server_alone - 1:+.1%}", f"{wall:.2f} s"]
            lines.append([f"{rows:,} rows, {name}", str(requests), *figures])
        server.process.kill()
    about = (
        f"A server that answers after {arguments.latency:g} s with 20 rows; {arguments.concurrency} requests in flight; "
        f"each row compared with those of {Path(arguments.path).name}."
    )
    columns = [
        "work",
        "requests",
        "the server's latency",
        "bare sockets",
        "asking (over the latency)",
        "over bare sockets",
    ]
    body = record.table([*columns, "the whole command"], lines)
    record.section("Generating data", f"{about}\n\n{body}", arguments.record, ("httpx", "openai", "rapidfuzz"))


if __name__ == "__main__":
    main()
