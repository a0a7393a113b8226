"""Which process this is, how many a run has, and what they agree on. Knows no model; imports torch only when asked."""

import os
from collections.abc import Mapping
from typing import Any

from alpaca.config import LaunchConfig, TrainConfig

VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""What torchrun tells its workers."""


def is_worker(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun (or this project's launcher, which is one) started this process."""
    return all(name in environment for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def rank() -> int:
    """Number of this process among all workers; 0 where there is only one."""
    return int(os.environ["RANK"]) if is_worker() else 0


def world_size() -> int:
    """Workers over all nodes."""
    return int(os.environ["WORLD_SIZE"]) if is_worker() else 1


def is_main() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


def processes(launch: LaunchConfig) -> int:
    """Processes over all nodes; auto: one a GPU, else 1. Inside a worker, what torchrun said."""
    if is_worker():
        return world_size()
    return local_processes(launch) * launch.nodes


def local_processes(launch: LaunchConfig) -> int:
    """Processes on this node."""
    if launch.processes == "auto":
        import torch

        return torch.cuda.device_count() or 1
    return launch.processes


def worker_count(config: TrainConfig) -> int:
    """Processes over all nodes that a run of this config has; single and device_map are always one."""
    return 1 if config.strategy.name in ("single", "device_map") else processes(config.launch)


def uses_cuda(config: TrainConfig) -> bool:
    """Whether the run computes on a GPU."""
    import torch

    return torch.cuda.is_available() and not config.trainer.get("use_cpu", False)


def join(config: TrainConfig) -> None:
    """Enter the process group of this worker's run: NCCL for tensors on GPUs, gloo for those in host memory."""
    from datetime import timedelta

    import torch
    from torch import distributed

    cuda = uses_cuda(config)
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    limit = timedelta(seconds=int(config.trainer.get("ddp_timeout", 1800)))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=limit)
    if config.strategy.name == "deepspeed":
        os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
        from deepspeed import comm, ops

        if not cuda:  # gloo serves; DeepSpeed's own would be compiled now, and hang where a compilation was cut short
            ops.__compatible_ops__["deepspeed_shm_comm"] = False
        comm.init_distributed("nccl" if cuda else "gloo", auto_mpi_discovery=False, verbose=False)


def leave() -> None:
    """Leave the process group, if this process is in one."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        agree([0])


def store() -> Any:
    """Another connection to the store where the processes of this run met: torchrun's, or the first process's."""
    from datetime import timedelta

    from torch.distributed import TCPStore

    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(*address, is_master=False, timeout=timedelta(minutes=5))


def agree(values: list[float], how: str = "SUM") -> list[float]:
    """The sum (SUM), largest (MAX) or smallest (MIN) of each number over all processes, through host memory."""
    if world_size() == 1:
        return list(values)
    import torch
    from torch import distributed

    tensor = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(tensor, op=getattr(distributed.ReduceOp, how))
    return tensor.tolist()


def least(value: float) -> float:
    """The smallest of a number over the processes that have joined the run, so that all decide alike; else this one's."""
    from torch import distributed

    joined = distributed.is_available() and distributed.is_initialized()
    return agree([value], "MIN")[0] if joined else value


def environment_of_one() -> dict[str, Any]:
    """This environment without what makes a process a worker: for a helper that runs alone."""
    return {k: v for k, v in os.environ.items() if k not in VARIABLES and not k.startswith("TORCHELASTIC_")}
