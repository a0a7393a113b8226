"""One of several processes that take runs one after another, so that a test of many settings pays for one start.

-m tests.shared_workers FOLDER in torchrun's environment: FOLDER/cases.json maps the name of a run folder to its overrides.
"""

import json
import sys
from pathlib import Path

from tests import processes
from tests.commands import compose


def train(folder: Path, cases: dict[str, list[str]], count: int = 2) -> str:
    """Run the cases; returns what was said."""
    (folder / "cases.json").write_text(json.dumps(cases))
    return processes.together(count, "-m", "tests.shared_workers", str(folder))


def main(folder: Path) -> None:
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from alpaca import console, devices, training
    from alpaca.results import RunFolder

    console.quiet_libraries()
    if not devices.is_main():
        console.mute()
    cases = {name: compose(*words) for name, words in json.loads((folder / "cases.json").read_text()).items()}
    devices.join(max(cases.values(), key=lambda config: config.strategy.name == "deepspeed"))
    for name, config in cases.items():
        run = RunFolder(folder / name)
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
