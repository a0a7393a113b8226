"""Peak memory of real training runs in one process: python -m tests.measure_memory FOLDER prints it as JSON.

FOLDER/cases.json holds the overrides of each run. The baseline is what the process holds right before a run, after a
small run has loaded every library; the peak is the kernel's own high-water mark (VmHWM), reset before each run.
"""

import ctypes
import gc
import json
import sys
from pathlib import Path

from alpaca.launch import launch
from tests.commands import compose


def give_back_what_is_freed() -> None:
    """From now on freed memory goes back to the kernel at once: else a peak may hide in what was freed before."""
    threshold_of_trim, threshold_of_mmap = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of glibc's malloc.h
    libc = ctypes.CDLL(None)
    assert libc.mallopt(threshold_of_mmap, 65536) and libc.mallopt(threshold_of_trim, 0)
    libc.malloc_trim(0)


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
    give_back_what_is_freed()
    folder = Path(sys.argv[1])
    cases = json.loads((folder / "cases.json").read_text())
    print(json.dumps([measure(case, folder / f"run{i}") for i, case in enumerate(cases)]))
