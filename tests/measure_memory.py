"""Peak memory of real training runs in one process: python -m tests.measure_memory FOLDER, case names on stdin as JSON.

The baseline is what the process holds right before a run, after a small run has loaded every library; the peak is the
kernel's own high-water mark (VmHWM), reset before each run. Freed memory must go back to the kernel at once for that, so
start it with MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=0.
"""

import gc
import json
import sys
from pathlib import Path

from alpaca.launch import launch
from tests.commands import compose


def status(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name + ":")).split()[1])


def measure(overrides: list[str], folder: Path) -> int:
    """Bytes at the peak of a run above what was there before it."""
    config = compose(*overrides)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    launch(config, folder)
    return status("VmHWM") - before


if __name__ == "__main__":
    cases = json.load(sys.stdin)
    folder = Path(sys.argv[1])
    print(json.dumps([measure(case, folder / f"run{i}") for i, case in enumerate(cases)]))
