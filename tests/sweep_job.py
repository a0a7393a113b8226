"""train.py with the training left out: a job of a sweep that ends in the way its settings say, within a second."""

import os
import signal
import time
from pathlib import Path

from alpaca.cli import entrypoint
from alpaca.config import TrainConfig, load
from alpaca.errors import UserError
from alpaca.results import RunFolder


@entrypoint("train", TrainConfig, load)
def main(config: TrainConfig, run_dir: Path) -> None:
    """A curve that depends on rank and rate; rank 7 is refused, 8 dies, 9 is killed."""
    assert config.method.lora is not None
    rank, rate = config.method.lora.r, float(config.trainer["learning_rate"])
    run = RunFolder(run_dir)
    run.lock()
    with (run_dir.parent / "started").open("a") as file:
        file.write(f"{run_dir.name}\n")
    if rank == 7:
        raise UserError("method.lora.r=7 is not allowed here")
    if rank in (8, 9) and not (run_dir.parent / "mended").exists():
        os._exit(5) if rank == 8 else os.kill(os.getpid(), signal.SIGKILL)
    for step in range(1, 21):
        run.append_metrics({"step": step, "loss": 3 / step + rank / 100 + rate, "seconds": step / 10})
    time.sleep(20 if (run_dir.parent / "slow").exists() else 0.1)
    run.write_result("completed", step=20, seconds=2.0)


if __name__ == "__main__":
    main()
