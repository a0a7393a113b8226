"""Where the work runs. Knows no torch at import, so that a submission costs nothing.

Compose once: the resolved config is written into the run folder, and whoever does the work reads it from there.
"""

import signal
from pathlib import Path
from types import FrameType

from alpaca import console, schema
from alpaca.config import TrainConfig
from alpaca.errors import Interrupted, UserError, first_line, is_write_error
from alpaca.results import RunFolder


def launch(config: TrainConfig, run_dir: Path) -> None:
    """Run the training that `config` describes in `run_dir`; result.json says how it ended. Prints nothing on stdout."""
    with console.results_only_on_stdout():
        _launch(config, RunFolder(run_dir))


def _launch(config: TrainConfig, run: RunFolder) -> None:
    run.lock()
    if config.resume == "none" and not config.dry_run:
        run.set_aside()
    if finished(run, config):
        return
    if not config.dry_run:
        run.write_config(schema.to_plain(config))
        run.write_environment()
    try:
        signal.signal(signal.SIGTERM, _terminate)
        check_processes(config)
        console.quiet_libraries()
        from alpaca import training

        training.run(config, run)
    except (KeyboardInterrupt, Interrupted) as stop:
        _write(run, config, "interrupted", error=str(stop) or "stopped by Ctrl-C")
        if isinstance(stop, Interrupted):
            raise
        raise Interrupted("stopped by Ctrl-C") from None
    except Exception as error:
        _write(run, config, "failed", error=f"{type(error).__name__}: {error}")
        if is_write_error(error) and not isinstance(error, UserError):
            raise UserError(
                f"the run folder {run.path} cannot be written ({first_line(error)}): free some space, or give another "
                "folder with hydra.run.dir=DIR"
            ) from error
        raise


def _write(run: RunFolder, config: TrainConfig, status: str, error: str) -> None:
    if config.dry_run:
        return
    lines = run.read_metrics()
    figures = {"step": lines[-1].get("step", 0)} if lines else {"step": 0}
    try:
        run.write_result(status, **figures, error=error)
    except UserError as fault:  # a full disk must not hide what went wrong first
        console.say(str(fault))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Interrupted("stopped by SIGTERM", 143)


def finished(run: RunFolder, config: TrainConfig) -> bool:
    """Whether this run folder holds a completed run already, in which case nothing is done and that is said."""
    if config.dry_run or config.resume != "auto" or run.read_result().get("status") != "completed":
        return False
    from omegaconf import OmegaConf

    from alpaca.results import differences

    before = OmegaConf.to_container(OmegaConf.load(run.config)) if run.config.is_file() else {}
    changed = [k for k in differences(before, schema.to_plain(config)) if k not in ("resume", "dry_run")]
    if changed:
        raise UserError(
            f"{run.path} holds a completed run with other settings ({', '.join(changed[:5])}): "
            "give another folder with hydra.run.dir=DIR, or resume=none to set the old run aside and start again"
        )
    console.say(f"{run.path} is completed already; resume=none starts again\n\n{next_command(run)}")
    return True


def next_command(run: RunFolder) -> str:
    """What to type to talk to a finished run."""
    return f"Talk to it:\n  python infer.py run={run.path} instruction='Name three primary colours.'"


def check_processes(config: TrainConfig) -> int:
    """Processes of this run. Raises UserError where the strategy cannot start them."""
    from alpaca.devices import processes

    count = processes(config.launch)
    if config.dry_run:
        return count
    if count > 1 and config.strategy.name != "device_map":
        raise UserError(
            f"this run asks for {count} processes, which cannot be started yet: use launch.processes=1 "
            "(dry_run=true answers for any number)"
        )
    if config.strategy.name in ("fsdp", "deepspeed"):
        console.warn(f"strategy={config.strategy.name} on one process has nothing to shard: trained as strategy=single")
    return 1
