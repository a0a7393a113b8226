"""Write instruction data with a teacher model: python generate_data.py num_instructions=… teacher=…   (--help lists the settings)."""

from pathlib import Path

from alpaca.cli import entrypoint
from alpaca.generation.config import GenerateConfig, load


@entrypoint("generate_data", GenerateConfig, load, texts=("topic", "output", "prompt_file", "source.path"))
def main(config: GenerateConfig, run_dir: Path) -> None:
    """Hand the validated config over to the pipeline."""
    from alpaca.generation.pipeline import generate

    generate(config)


if __name__ == "__main__":
    main()
