"""One of several processes that take runs one after another, so that a test of many settings pays for one start.

torchrun --standalone --nproc-per-node 2 -m tests.shared_workers FOLDER: FOLDER/cases.json maps the name of a run folder
to its overrides. All runs of a file have the same engine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.commands import ROOT, compose


def train(folder: Path, cases: dict[str, list[str]], processes: int = 2) -> str:
    """Run the cases; returns what was said."""
    (folder / "cases.json").write_text(json.dumps(cases))
    return start("tests.shared_workers", folder, processes)


def start(module: str, folder: Path, processes: int = 2) -> str:
    """Run a module in several processes of torchrun; returns what was said."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, "-m", module, str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stderr


def main(folder: Path) -> None:
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from alpaca import console, devices, training
    from alpaca.results import RunFolder

    console.quiet_libraries()
    if not devices.is_main():
        console.mute()
    joined = False
    for name, words in json.loads((folder / "cases.json").read_text()).items():
        config, run = compose(*words), RunFolder(folder / name)
        if not joined:
            devices.join(config)
            joined = True
        console.say(f"=== {name}")
        if devices.is_main():
            run.path.mkdir(exist_ok=True)
            training.prepare_for_workers(config, run)
        devices.barrier()
        training.run(config, run)
        AcceleratorState._reset_state(reset_partial_state=True)
        unset_hf_deepspeed_config()  # else the next base would be made in parts
    devices.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
