"""PyTorch FSDP2 (`fully_shard`): parameters, gradients and optimiser state cut over all processes, and shown to be.

The same code runs on GPUs (NCCL) and in host memory (gloo), so that a test without a GPU shards for real. The layers
that are cut apart are those that the model itself names as not to be split. Knows no data and no trainer.
"""

from typing import Any

from alpaca import console, devices, one_reader
from alpaca.config import StrategyConfig
from alpaca.errors import UserError

TOLERANCE = 0.05
"""How far a process's share of the numbers may lie from an even one, relative to it; padding of small tensors."""


def shard(model: Any, strategy: StrategyConfig, precision: Any, device_type: str, whole_on_first: bool) -> Any:
    """Cut every block of the model, then what lies outside the blocks; returns the same model, its parameters DTensors.

    Each block comes from the first process right before it is cut, so that the others need not have it.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    mesh = init_device_mesh(device_type, (devices.world_size(),))
    offloads = strategy.offload == "all" and device_type != "cpu"
    if strategy.offload == "all" and not offloads:
        console.say("notice: strategy.offload=all changes nothing without a GPU: all is in host memory as it is")
    low = precision.compute if strategy.mixed_precision and precision.compute != torch.float32 else None
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": strategy.reshard_after_forward,
        "mp_policy": MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None),
        "offload_policy": CPUOffloadPolicy() if offloads else OffloadPolicy(),
    }
    for part in [*blocks(model), model]:
        if whole_on_first:
            one_reader.receive(part, device_type)
        fully_shard(part, **options)
    model._is_fsdp_managed_module = True  # what transformers asks before it saves or accumulates
    return model


def blocks(model: Any) -> list[Any]:
    """The modules that are cut as a whole, innermost first. Raises UserError when the model names none."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(base, "_no_split_modules", None) or ())
    found = [m for m in model.modules() if type(m).__name__ in names]
    if not found:
        raise UserError(
            f"{type(base).__name__} does not say which of its layers belong together (_no_split_modules), so that "
            "strategy=fsdp cannot cut it: use strategy=ddp or deepspeed"
        )
    return found[::-1]


def report(model: Any) -> str:
    """A line that says how the parameters lie over the processes. Raises RuntimeError when they are not sharded.

    A strategy that silently keeps whole copies would cost a machine's memory and nobody would see why.
    """
    from torch.distributed.tensor import DTensor, Shard

    count = devices.world_size()
    whole = [n for n, p in model.named_parameters() if not isinstance(p, DTensor)]
    if whole:
        raise RuntimeError(f"sharding failed: {len(whole)} parameters are whole on every process ({whole[0]}, …)")
    parameters = [p for p in model.parameters() if isinstance(p, DTensor)]
    for parameter in parameters:
        if parameter.device_mesh.size() != count or not all(isinstance(p, Shard) for p in parameter.placements):
            raise RuntimeError(f"sharding failed: a parameter lies as {parameter.placements} over {count} processes")
    total, mine = sum(p.numel() for p in parameters), sum(p.to_local().numel() for p in parameters)
    most = round(devices.agree([mine], "MAX")[0])
    everywhere = round(devices.agree([mine])[0])
    slack = sum(p.numel() / max(1, p.shape[0]) for p in parameters)  # a row more or less of each tensor
    if everywhere != total or most > total / count * (1 + TOLERANCE) + slack:
        raise RuntimeError(
            f"sharding failed: {everywhere:,} of {total:,} numbers lie on {count} processes, {most:,} on the fullest"
        )
    return (
        f"sharded: {len(parameters)} parameters, {total:,} numbers, over {count} processes; "
        f"this one holds {mine:,} ({mine / total:.1%}), the fullest {most:,}"
    )


def gathered(model: Any, trainable_only: bool) -> dict[str, Any]:
    """The whole weights in host memory, on the first process; empty on the others. Called by all of them."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trainable_only)
    return get_model_state_dict(model, options=options)


def save_state(model: Any, optimizer: Any, place: Any, strategy: StrategyConfig, trainable_only: bool) -> None:
    """Weights and optimiser state into the folder `place`. Called by all processes.

    sharded: each writes what it holds; full: the first one writes all of it, gathered. Both are read by any number of
    processes.
    """
    import torch
    from torch.distributed import checkpoint

    state = _state(model, optimizer, trainable_only, full=strategy.state_dict == "full")
    if strategy.state_dict == "full":
        if devices.is_main():
            place.mkdir(parents=True)
            torch.save(state, place / "full.pt")
        return
    checkpoint.save(state, checkpoint_id=str(place), no_dist=devices.world_size() == 1)


def load_state(model: Any, optimizer: Any, place: Any, trainable_only: bool) -> None:
    """What `save_state` wrote, cut for the processes that there are now. Called by all of them."""
    import torch
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    full = (place / "full.pt").is_file()
    if full:
        state = torch.load(place / "full.pt", map_location="cpu", weights_only=True, mmap=True)
    else:
        state = _state(model, optimizer, trainable_only, full=False)
        checkpoint.load(state, checkpoint_id=str(place), no_dist=devices.world_size() == 1)
    options = StateDictOptions(full_state_dict=full, ignore_frozen_params=trainable_only, strict=not trainable_only)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=options
    )


def _state(model: Any, optimizer: Any, trainable_only: bool, full: bool) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=full, cpu_offload=full, ignore_frozen_params=trainable_only)
    weights, moments = get_state_dict(model, optimizer, options=options)
    return {"model": weights, "optimizer": moments}
