"""Peak memory of exports in one process: python -m tests.measure_export SMALL BASE ADAPTER FOLDER prints bytes as JSON.

As tests/measure_memory.py, above what the process holds after an export of SMALL has loaded every library. The checks,
which have processes of their own, run in this one: the peak is that of whatever takes most.
"""

import gc
import json
import sys
from pathlib import Path

from alpaca import export, export_check
from alpaca.export_config import load
from tests.measure_memory import give_back_what_is_freed, status


def check(step: str, spec: Path) -> str:
    """Stands for a fresh process."""
    assert export_check.main(step, spec) == 0
    return step


def measure(**settings: str) -> int:
    """Bytes at the peak of an export above what was there before it."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    export.run(load(settings))
    return status("VmHWM") - before


if __name__ == "__main__":
    give_back_what_is_freed()
    small, base, adapter, folder = sys.argv[1:]
    export.in_fresh_process = check
    measure(model=small, adapter=f"{small}_adapter", output=f"{folder}/small", verify="streamed")
    given = {"model": base, "adapter": adapter}
    written = measure(**given, output=f"{folder}/written", verify="none")
    checked = measure(**given, output=f"{folder}/checked", verify="streamed")
    print(json.dumps({"written": written, "checked": checked}))
