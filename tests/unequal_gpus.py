"""One of two processes whose GPUs differ: FOLDER/decided-RANK.json holds what it decided where a setting is `auto`."""

import json
import sys
from pathlib import Path

import torch

from alpaca import devices, plan_report, precision
from alpaca import model as base_model
from alpaca.gpus import GPUS
from alpaca.planning import GIB
from tests.commands import compose


def main(folder: Path) -> None:
    words = ["model=llama7b", "model.path=null", "dry_run=true", "method=lora", "trainer.gradient_checkpointing=auto"]
    config = compose(*words, "launch.processes=2")
    devices.join(config)
    large = devices.rank() == 0
    plan_report._memory_of_gpu = lambda config: GPUS["h100" if large else "t4"].gib * GIB
    architecture = base_model.from_yaml(config.model.architecture)
    decided = plan_report.decide_checkpointing(config, architecture, None, 52_002)
    torch.cuda.is_available = lambda: True
    torch.cuda.is_bf16_supported = lambda including_emulation: large
    torch.cuda.get_device_capability = lambda: (9, 0) if large else (7, 5)
    chosen = [decided.trainer["gradient_checkpointing"], precision.choose(config).name]
    (folder / f"decided-{devices.rank()}.json").write_text(json.dumps(chosen))
    devices.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
