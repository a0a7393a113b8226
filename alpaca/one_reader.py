"""One process reads the base; the others hold its shape, and memory for a block of it while the block is cut.

So the host memory of a node is one model and a share for each process, not a model for each. Knows no data.
"""

from typing import Any

from alpaca import devices
from alpaca.config import TrainConfig


def applies(config: TrainConfig) -> bool:
    """Whether the parameters are cut over the processes, so that none but the first needs them whole.

    A quantised base is read by each: its layers come into being while they are read.
    """
    strategy = config.strategy
    cut = strategy.name == "fsdp" or strategy.name == "deepspeed" and strategy.stage == 3
    return cut and devices.world_size() > 1 and config.method.quantize is None


def agree_on_formats(model: Any) -> None:
    """Give the parameters of the others the first one's dtypes. Called by all; raises RuntimeError where shapes differ."""
    from torch import device, distributed

    ours = {name: (tuple(p.shape), p.dtype) for name, p in model.named_parameters()}
    box: list[Any] = [ours]
    distributed.broadcast_object_list(box, src=0, device=device("cpu"))
    theirs = box[0]
    for name in ours.keys() | theirs.keys():
        if ours.get(name, (None,))[0] != theirs.get(name, (None,))[0]:
            raise RuntimeError(f"{name} is {ours.get(name)} here and {theirs.get(name)} on the first process")
    if not devices.is_main():
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(theirs[name][1])


def receive(module: Any, device: str) -> None:
    """Fill every parameter and buffer that is not cut yet with the first process's, on `device`. Called by all."""
    from torch.distributed.tensor import DTensor

    for parameter in module.parameters():
        if not isinstance(parameter, DTensor):
            receive_parameter(parameter, device)
    receive_buffers(module, device)


def receive_buffers(module: Any, device: str) -> None:
    """Fill every buffer with the first process's."""
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _sent(_here(buffer, device))


def receive_parameter(parameter: Any, device: str) -> None:
    """Fill one parameter with the first process's; it stays the same object, so that tied weights stay tied."""
    import torch

    if parameter.is_meta:
        fresh = torch.nn.Parameter(_here(parameter.data, device), requires_grad=parameter.requires_grad)
        torch.utils.swap_tensors(parameter, fresh)
    else:
        parameter.data = _here(parameter.data, device)
    _sent(parameter.data)


def _here(tensor: Any, device: str) -> Any:
    import torch

    if tensor.is_meta:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    return tensor.to(device).contiguous()


def _sent(tensor: Any) -> Any:
    import torch
    from torch import distributed

    if tensor.numel():
        distributed.broadcast(tensor.view(-1).view(torch.uint8), src=0)  # bytes: not every backend knows every format
    return tensor
