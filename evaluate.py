"""Judge something: python evaluate.py task=data_audit data.path=FILE   (--help lists the settings)."""

from pathlib import Path

from alpaca.cli import entrypoint
from alpaca.evaluation.config import EvaluateConfig, load


@entrypoint("evaluate", EvaluateConfig, load)
def main(config: EvaluateConfig, run_dir: Path) -> None:
    """Hand the validated config over to its task."""
    from alpaca.evaluation.data_audit import audit

    tasks = {"data_audit": audit}
    tasks[config.task](config, run_dir)


if __name__ == "__main__":
    main()
