"""Write a tuned model for others: python export.py run=DIR format=hf|adapter|gguf|diff   (--help lists the settings)."""

from pathlib import Path

from alpaca import console
from alpaca.cli import entrypoint
from alpaca.export_config import ExportConfig, load


@entrypoint("export", ExportConfig, load)
def main(config: ExportConfig, run_dir: Path) -> None:
    """Hand the validated config over."""
    console.quiet_libraries()
    from alpaca import export

    export.run(config)


if __name__ == "__main__":
    main()
