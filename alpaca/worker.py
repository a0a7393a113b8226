"""python -m alpaca.worker RUN_DIR: one of several processes of a run, started by torchrun's agent on a saved config."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from alpaca import console, devices, outcomes
from alpaca.config import TrainConfig, load
from alpaca.errors import Interrupted, UserError
from alpaca.results import RunFolder


def main(folder: Path) -> NoReturn:
    """Train as one of the run's processes. The exit code is 0 also after an interruption, which is told in the outcome."""
    die_with_parent(int(os.environ.get("ALPACA_PARENT", os.getppid())))
    os.dup2(2, 1)  # stdout is for results, and a worker has none
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        train(read_config(folder), RunFolder(folder))
    except (KeyboardInterrupt, Interrupted) as stop:
        outcomes.tell("interrupted", Interrupted(str(stop) or "stopped by Ctrl-C"))
        os._exit(0)
    except BaseException as error:
        outcomes.tell("failed", error)
        os._exit(2 if isinstance(error, UserError) else 1)  # no goodbye to the others: they would wait for it
    outcomes.tell("completed")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # taking the interpreter apart costs seconds, in every process


def train(config: TrainConfig, folder: RunFolder) -> None:
    """Join the other processes and train."""
    console.quiet_libraries()
    if not devices.is_main():
        console.mute()
    devices.join(config)
    from alpaca import training

    training.run(config, folder)
    devices.leave()


def read_config(folder: Path) -> TrainConfig:
    """The config that the launcher saved."""
    from omegaconf import OmegaConf

    return load(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however it dies (Linux)."""
    if sys.platform != "linux":
        return
    import ctypes

    set_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before
        os._exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}", 128 + number)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
