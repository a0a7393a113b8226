"""Ask a tuned model: python infer.py run=DIR instruction='…'   (python infer.py --help lists the settings)."""

from pathlib import Path

from alpaca import console
from alpaca.cli import CONF, entrypoint
from alpaca.infer_config import InferConfig, load


@entrypoint("infer", InferConfig, load, folder=CONF / "infer", texts=("instruction", "input"))
def main(config: InferConfig, run_dir: Path) -> None:
    """Hand the validated config over."""
    console.quiet_libraries()
    from alpaca import answering

    answering.run(config)


if __name__ == "__main__":
    main()
