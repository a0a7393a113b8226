"""Judge data, a model or a config: python evaluate.py task=…   (--help lists the settings)."""

from pathlib import Path

from alpaca import console
from alpaca.cli import entrypoint
from alpaca.evaluation.config import EvaluateConfig, load


@entrypoint("evaluate", EvaluateConfig, load, texts=("data.path",))
def main(config: EvaluateConfig, run_dir: Path) -> None:
    """Hand the validated config over to its task."""
    console.quiet_libraries()
    from alpaca.evaluation import tasks

    tasks.run(config, run_dir)


if __name__ == "__main__":
    main()
