"""The launcher's side of several processes: torchrun's agent starts them on the saved config, and none outlives it.

A worker is `python -m alpaca.worker RUN_DIR`. What became of each one it writes into a folder of outcomes (see
alpaca/outcomes.py). Knows no model and no trainer.
"""

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from alpaca import console, devices, outcomes
from alpaca.config import TrainConfig
from alpaca.errors import Interrupted
from alpaca.results import RunFolder

GRACE = 5.0
"""Seconds that the others have to end by themselves, telling why, after the first worker failed."""
ROOT = Path(__file__).resolve().parent.parent


def run(config: TrainConfig, folder: RunFolder) -> None:
    """Start the workers of this node on the run folder's config.yaml and wait for them.

    Raises Interrupted after a signal (which the workers were given, and saved), UserError or WorkerFailed with the
    first worker's own error.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    notes = Path(tempfile.mkdtemp(prefix="alpaca-outcomes-"))
    supervisor = Supervisor()
    try:
        with worker_environment(config, notes), supervisor.listening():
            result = supervisor.agent(config, folder).run()
    except ChildFailedError as error:  # pragma: no cover - the agent reports by its result
        raise RuntimeError(str(error)) from error
    finally:
        supervisor.kill()
        found = outcomes.read(notes)
        shutil.rmtree(notes, ignore_errors=True)
    failures = {w: f.exitcode for w, f in result.failures.items()} if result.is_failed() else {}
    if supervisor.signal is not None and (failures or any(o.status == "interrupted" for o in found.values())):
        stopped = [o for o in found.values() if o.status == "interrupted"]
        raise Interrupted(
            stopped[0].error if stopped else f"stopped by {signal.Signals(supervisor.signal).name}",
            128 + supervisor.signal,
        )
    outcomes.raise_first(found, failures)


class Supervisor:
    """The agent of this node, and the signals that it hands on to the workers."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._agent: Any = None

    def agent(self, config: TrainConfig, folder: RunFolder) -> Any:
        """torchrun's local agent for this run; a free port is chosen where there is one node."""
        import torch.distributed.elastic.rendezvous.registry as registry
        from torch.distributed.elastic.agent.server.api import WorkerSpec
        from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
        from torch.distributed.elastic.rendezvous.api import RendezvousParameters

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)

        class Agent(LocalElasticAgent):
            """Once a worker failed the others get GRACE seconds instead of a signal that means: save and stop."""

            def _monitor_workers(self, worker_group: Any) -> Any:
                context: Any = self._pcontext
                assert context is not None
                end_together([handler.proc for handler in context.subprocess_handlers.values()])
                return super()._monitor_workers(worker_group)

        launch = config.launch
        rendezvous = RendezvousParameters(
            backend="c10d",
            endpoint=launch.rendezvous or "127.0.0.1:0",
            run_id=f"alpaca-{folder.path.name}" if launch.rendezvous else str(uuid.uuid4()),
            min_nodes=launch.nodes,
            max_nodes=launch.nodes,
            local_addr=None if launch.rendezvous else "127.0.0.1",
            timeout=24 * 3600,
        )
        spec = WorkerSpec(
            role="worker",
            local_world_size=devices.local_processes(launch),
            entrypoint=sys.executable,
            args=("-m", "alpaca.worker", str(folder.path.resolve())),
            rdzv_handler=registry.get_rendezvous_handler(rendezvous),
            max_restarts=0,
            monitor_interval=0.1,
            local_addr=rendezvous.config.get("local_addr") or (None if launch.rendezvous else "127.0.0.1"),
        )
        self._agent = Agent(spec, logs_specs=DefaultLogsSpecs(), exit_barrier_timeout=60)
        return self._agent

    def processes(self) -> list[Any]:
        """The workers that were started."""
        context = getattr(self._agent, "_pcontext", None)
        return [handler.proc for handler in context.subprocess_handlers.values()] if context else []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM asks the workers to save and stop; a second SIGINT ends them at once."""

        def hand_on(number: int, frame: FrameType | None) -> None:
            if self.signal is not None and number == signal.SIGINT:
                self.kill()
                return
            self.signal = number
            processes = self.processes()
            if not processes:  # still waiting for other nodes
                raise Interrupted(f"stopped by {signal.Signals(number).name}", 128 + number)
            for process in processes:
                if process.poll() is None:
                    process.send_signal(number)

        before = {s: signal.signal(s, hand_on) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def kill(self) -> None:
        """End every worker that is still there, with its own children."""
        for process in self.processes():
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def end_together(processes: list[Any]) -> None:
    """After the first failure: wait GRACE seconds for the others, then kill them, so that none hangs in a collective."""
    if not any(p.poll() not in (None, 0) for p in processes):
        return
    until = time.monotonic() + GRACE
    while time.monotonic() < until and any(p.poll() is None for p in processes):
        time.sleep(0.05)
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def worker_environment(config: TrainConfig, notes: Path) -> Iterator[None]:
    """What the workers find in their environment; this process's own is put back."""
    here = devices.local_processes(config.launch)
    values = {
        outcomes.FOLDER: str(notes),
        "ALPACA_PARENT": str(os.getpid()),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGHUP,SIGQUIT",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // here)),
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false"),
    }
    if config.launch.nodes == 1 and sys.platform == "linux":
        values["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    if not devices.uses_cuda(config):
        values["DS_ACCELERATOR"] = "cpu"
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def announce(config: TrainConfig) -> None:
    """Say how many processes are started, and that a single one shards nothing."""
    here, nodes = devices.local_processes(config.launch), config.launch.nodes
    where = f" on each of {nodes} nodes" if nodes > 1 else ""
    console.say(f"starting {here} process{'es' if here > 1 else ''}{where} (strategy={config.strategy.name})")
