"""One of two processes, the second of which an exception throws out of the check of the fast path, alone.

-m tests.lonely_worker FOLDER FAULT in torchrun's environment. FAULT: init, within the first look at the plain batch; or
stopped, within a way, after a signal that came to both.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from alpaca import console, devices, layout_check, training, vote
from alpaca.forward import Way
from alpaca.results import RunFolder
from tests import processes
from tests.commands import compose


def main(folder: Path, fault: str) -> None:
    console.quiet_libraries()
    states = layout_check.LayoutCheck.states

    def broken(self: Any, way: Way, *words: Any, **options: Any) -> Any:
        if fault == "stopped" and way.layout != "padded":
            os.kill(os.getpid(), signal.SIGTERM)
        if devices.rank() == 1 and (fault == "init" or way.layout != "padded"):
            raise RuntimeError("nothing that another process has")
        return states(self, way, *words, **options)

    layout_check.LayoutCheck.states = broken
    vote.ALONE, vote.STOPPED = (1.0, 500.0) if fault == "init" else (500.0, 1.0)
    config = compose(*processes.LLAMA, "method=full_fsdp", "launch.processes=2", f"data.cache={folder / 'cache'}")
    devices.join(config)
    run = RunFolder(folder / "run")
    if devices.is_main():
        run.path.mkdir()
        training.prepare_for_workers(config, run)
    devices.barrier()
    training.run(config, run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
