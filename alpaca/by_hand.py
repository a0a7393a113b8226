"""Runs that a user starts with torchrun: every process composes, the first prepares, and the others wait for it.

Knows no model. The processes meet at the store that torchrun keeps; nothing waits inside a collective, whose time
limit a large data set would exceed.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from alpaca import devices, outcomes, schema
from alpaca.config import TrainConfig
from alpaca.errors import UserError
from alpaca.results import RunFolder


def check(config: TrainConfig, run_dir: Path) -> None:
    """Refuse what cannot be under torchrun. Raises UserError."""
    if os.environ.get(outcomes.FOLDER):
        raise UserError("a run cannot be launched inside a worker of another run: start it from a process of its own")
    if not devices.is_worker():
        return
    here, nodes = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("GROUP_WORLD_SIZE", 1))
    given = config.launch.processes
    if given not in ("auto", here) or config.launch.nodes not in (1, nodes):
        raise UserError(
            f"a launch inside a launch: torchrun has started {here} process{'es' if here > 1 else ''} on {nodes} "
            f"node{'s' if nodes > 1 else ''}, and launch.processes={given} launch.nodes={config.launch.nodes} asks for "
            "others: leave launch.* out, or start with python instead of torchrun"
        )
    if config.strategy.name in ("single", "device_map") and devices.world_size() > 1:
        raise UserError(f"strategy={config.strategy.name} is one process: start it with python instead of torchrun")
    _check_folder(run_dir)


def _check_folder(run_dir: Path) -> None:
    """Every process has composed by itself, so that the run folder must be given and not made from the time."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized() or devices.world_size() == 1:
        return
    hydra = HydraConfig.get()
    fault = None
    if hydra.mode == RunMode.MULTIRUN:
        fault = "-m cannot be under torchrun: start python train.py -m … launch.processes=N"
    elif not any(o.startswith("hydra.run.dir=") for o in hydra.overrides.hydra):
        fault = "under torchrun every process must know the run folder: give hydra.run.dir=DIR"
    if fault:
        if run_dir.is_dir() and not any(run_dir.iterdir()):
            run_dir.rmdir()
        raise UserError(fault)


def train(config: TrainConfig, run: RunFolder) -> None:
    """Prepare or wait, then train as one of torchrun's processes, all on the first one's config."""
    from alpaca import training, worker

    worker.die_with_parent(os.getppid())
    if devices.world_size() == 1:
        training.run(config, run)
        return
    if devices.is_main():
        training.prepare_for_workers(config, run)
        tell_followers("go", config=schema.to_plain(config), folder=str(run.path.resolve()))
    else:
        told = _wait()
        if told["word"] == "stop":
            return
        ours = {"config": schema.to_plain(config), "folder": str(run.path.resolve())}
        if (differing := [k for k in ours if ours[k] != told[k]]) != []:
            raise UserError(
                f"process {devices.rank()} has another {' and '.join(differing)} than process 0: "
                "give every node the same command line"
            )
    worker.train(config, run)


def tell_followers(word: str, **more: Any) -> None:
    """Tell the processes that wait: go, or stop since there is nothing to do."""
    if devices.is_worker() and devices.is_main() and devices.world_size() > 1:
        devices.store().set(_key(), json.dumps({"word": word, **more}))


def _wait() -> dict[str, Any]:
    store = devices.store()
    while not store.check([_key()]):  # not store.wait: a signal must get through
        time.sleep(0.2)
    return json.loads(store.get(_key()))


def _key() -> str:
    return f"alpaca/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
