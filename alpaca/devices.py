"""How many processes a run has on the devices that are there."""

from alpaca.config import LaunchConfig


def processes(launch: LaunchConfig) -> int:
    """Processes over all nodes; auto: one a GPU, else 1."""
    if launch.processes == "auto":
        import torch

        count = torch.cuda.device_count() or 1
    else:
        count = launch.processes
    return count * launch.nodes
