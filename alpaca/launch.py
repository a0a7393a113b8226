"""Where the work runs. Knows no torch at import, so that a submission costs nothing.

Compose once: the resolved config is written into the run folder, and whoever does the work reads it from there. One
process trains here. For several, this one prepares tokenizer, data and base model, then starts torchrun's workers on
the saved config; or it is one that torchrun started by hand, and then the first of them prepares while the others wait.
"""

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from alpaca import by_hand, console, devices, outcomes, schema
from alpaca.config import TrainConfig
from alpaca.errors import Interrupted, UserError, WorkerFailed, first_line, is_write_error
from alpaca.results import RunFolder

LOST_PEER = "another process of this run is gone"


def launch(config: TrainConfig, run_dir: Path) -> None:
    """Run the training that `config` describes in `run_dir`; result.json says how it ended. Prints nothing on stdout."""
    by_hand.check(config, run_dir)
    run = RunFolder(run_dir)
    try:
        with console.results_only_on_stdout():
            _launch(config, run)
    finally:
        run.release()


def _launch(config: TrainConfig, run: RunFolder) -> None:
    leads = is_leader(config)
    started = time.time()
    if leads:
        run.lock()
        if config.resume == "none" and not config.dry_run:
            run.set_aside()
    if (leads or not devices.is_worker()) and finished(run, config):
        by_hand.tell_followers("stop")
        return
    if leads and not config.dry_run:
        run.write_config(schema.to_plain(config))
        run.write_environment()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        _work_and_say(config, run, leads, started)
    finally:
        signal.signal(signal.SIGTERM, before)


def _work_and_say(config: TrainConfig, run: RunFolder, leads: bool, started: float) -> None:
    """Work; how it ended, where it did not end well, is written into the run folder whatever signals come then."""
    try:
        try:
            work(config, run, leads)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except (KeyboardInterrupt, Interrupted) as stop:
        if devices.is_worker() and stop.__context__ is not None and outcomes.lost_peer(stop.__context__):
            _lost_peer(config, run, started, stop.__context__)  # torchrun stops those that are left, often at once
        if leads:
            _write(run, config, "interrupted", str(stop) or "stopped by Ctrl-C", started)
        if isinstance(stop, Interrupted):
            raise
        raise Interrupted("stopped by Ctrl-C") from None
    except Exception as error:
        if outcomes.lost_peer(error) and devices.is_worker():
            _lost_peer(config, run, started, error)
        _write(run, config, "failed", f"{type(error).__name__}: {error}", started)
        if is_write_error(error) and not isinstance(error, UserError):
            raise UserError(
                f"the run folder {run.path} cannot be written ({first_line(error)}): free some space, or give another "
                "folder with hydra.run.dir=DIR"
            ) from error
        raise


def _lost_peer(config: TrainConfig, run: RunFolder, started: float, error: BaseException) -> NoReturn:
    told = f"{LOST_PEER}: its own error, or torchrun's Root Cause, says why"
    _write(run, config, "failed", told, started)
    raise WorkerFailed(told) from error


def work(config: TrainConfig, run: RunFolder, leads: bool) -> None:
    """Train in this process, as one of torchrun's, or in workers that are started for it."""
    count = check_processes(config)
    console.quiet_libraries()
    from alpaca import preparing, training

    if devices.is_worker() and not config.dry_run:
        by_hand.train(config, run)
    elif count == 1 or config.dry_run:
        training.run(config, run)
    else:
        from alpaca import workers

        preparing.plan_of(config, 1)  # the batch arithmetic refuses before anything is prepared
        if leads:
            training.prepare_for_workers(config, run)
        workers.announce(config)
        workers.run(config, run)


def is_leader(config: TrainConfig) -> bool:
    """Whether this process prepares the run and writes its files: the first of torchrun's, or the first node's."""
    if devices.is_worker():
        return devices.is_main()
    return node_rank(config) == 0


def node_rank(config: TrainConfig) -> int:
    """Number of this node: launch.node_rank, else what SLURM says, else 0."""
    if config.launch.nodes == 1:
        return 0
    given = config.launch.node_rank
    return given if given is not None else int(os.environ.get("SLURM_NODEID", 0))


def _write(run: RunFolder, config: TrainConfig, status: str, error: str, started: float) -> None:
    """result.json, unless another process of this run has already written why it failed."""
    if config.dry_run:
        return
    place, before = run.path / "result.json", run.read_result()
    if place.is_file() and place.stat().st_mtime >= started and before.get("status") == "failed":
        caused = str(before.get("error")).startswith(LOST_PEER) and not error.startswith(LOST_PEER)
        if not (caused and status == "failed"):  # a process's own error comes before what it did to the others
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
    """Processes of this run over all nodes. Raises UserError where they cannot be."""
    count = devices.worker_count(config)
    if config.dry_run:
        return count
    name = config.strategy.name
    if count == 1 and name in ("fsdp", "deepspeed"):
        console.warn(f"strategy={name} on one process has nothing to shard: trained as strategy=single")
    given = config.launch.processes
    if given != "auto" and devices.uses_cuda(config):
        import torch

        there = torch.cuda.device_count()
        if given > there:
            raise UserError(f"launch.processes={given} is more than the {there} GPUs of this machine: use 1 to {there}")
    return count
