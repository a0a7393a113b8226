"""Tune a model: python train.py model=… method=… data=…   (python train.py --help lists the choices)."""

from pathlib import Path

from alpaca.cli import entrypoint
from alpaca.config import TrainConfig, load


@entrypoint("train", TrainConfig, load)
def main(config: TrainConfig, run_dir: Path) -> None:
    """Hand the validated config over to the launcher."""
    from alpaca.launch import launch

    launch(config, run_dir)


if __name__ == "__main__":
    main()
