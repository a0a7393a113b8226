"""Peak host memory of each process while a base is loaded and cut: -m tests.measure_loading FOLDER, as torchrun starts it.

FOLDER/words.json holds the overrides of a run whose base is in FOLDER/run; FOLDER/peak-RANK.json gets the bytes at the
peak above what the process held before.
"""

import gc
import json
import sys
from pathlib import Path

from tests.commands import compose
from tests.measure_memory import give_back_what_is_freed, status


def main(folder: Path) -> None:
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import torch.distributed.fsdp  # noqa: F401

    from alpaca import building, console, devices, one_reader, precision, preparing, sharding, zero
    from alpaca.results import RunFolder

    give_back_what_is_freed()
    console.mute()
    config, run = compose(*json.loads((folder / "words.json").read_text())), RunFolder(folder / "run")
    devices.join(config)
    parts, chosen = preparing.prepare(config, run), precision.choose(config)
    gc.collect()
    devices.barrier()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    model = building.build_model(config, run, parts, chosen)
    if building.shards(config):
        model = sharding.shard(model, config.strategy, chosen, "cpu", one_reader.applies(config))
    elif one_reader.applies(config):
        zero.cut(model, config.strategy, chosen.compute)
    devices.barrier()
    (folder / f"peak-{devices.rank()}.json").write_text(json.dumps(status("VmHWM") - before))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
