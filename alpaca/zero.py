"""DeepSpeed ZeRO: its settings made from the config, and shown to shard. Knows no data and no trainer.

Batch sizes, optimiser, schedule, clipping and precision are left to the Trainer ("auto"), so that each has one place.
"""

import os
from collections.abc import Iterator
from typing import Any

from alpaca import devices, one_reader
from alpaca.config import StrategyConfig


def settings(strategy: StrategyConfig) -> dict[str, Any]:
    """What DeepSpeed calls its JSON file.

    offload=all on stage 3 is Stanford Alpaca's configs/default_offload_opt_param.json, but for the 16-bit weights,
    which it does not gather (so that nothing usable is saved), and optimiser and schedule, which are the Trainer's own.
    """
    import torch

    cuda = torch.cuda.is_available()  # else there is no second stream to overlap on, and no memory to pin
    zero: dict[str, Any] = {"stage": strategy.stage, "overlap_comm": cuda, "contiguous_gradients": True}
    if strategy.offload in ("optimizer", "all"):
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda}
    if strategy.stage == 3:
        zero |= {
            "sub_group_size": int(1e9),
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_max_live_parameters": int(1e9),
            "stage3_max_reuse_distance": int(1e9),
            "stage3_gather_16bit_weights_on_model_save": True,
        }
        if strategy.offload == "all":
            zero["offload_param"] = {"device": "cpu", "pin_memory": cuda}
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own is compiled on the spot, where there is a compiler
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "steps_per_print": int(1e12),
    }


def cut(model: Any, strategy: StrategyConfig, compute: Any) -> None:
    """Cut the parameters over the processes, one after another as they come from the first process. Stage 3.

    compute: dtype that DeepSpeed keeps parameters in; the optimiser's own copy is fp32.
    """
    import deepspeed
    import torch
    from torch import nn

    device = "cuda" if torch.cuda.is_available() else "cpu"

    class OneByOne(nn.Module):
        """What DeepSpeed goes through; a parameter is there from when it is asked for until it is cut."""

        def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(compute)
                one_reader.receive_parameter(parameter, device)
                yield parameter

    zero = settings(strategy)["zero_optimization"]
    zero = {name: value for name, value in zero.items() if value != "auto"}
    deepspeed.zero.Init(
        OneByOne(), config_dict_or_path={"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}, dtype=compute
    )
    one_reader.receive_buffers(model, device)


def join_without_gpu() -> None:
    """Tell accelerate that this process is one of several under DeepSpeed: without a GPU it would train alone."""
    from accelerate import PartialState

    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    state = PartialState(backend="gloo")
    del os.environ["ACCELERATE_USE_DEEPSPEED"]
    assert state.num_processes == devices.world_size()


def report(engine: Any, strategy: StrategyConfig) -> str:
    """A line that says what is cut over the processes. Raises RuntimeError when it is not. Called by all of them.

    Stage 3 cuts parameters, gradients and optimiser state; 2 the latter two; 1 the optimiser state.
    """
    count = devices.world_size()
    if strategy.stage == 3:
        what, parameters = "parameters", list(engine.module.parameters())
        if whole := [n for n, p in engine.module.named_parameters() if not hasattr(p, "ds_tensor")]:
            raise RuntimeError(f"ZeRO-3 failed: {len(whole)} parameters are whole on every process ({whole[0]}, …)")
        total, mine = sum(p.ds_numel for p in parameters), sum(p.ds_tensor.ds_numel for p in parameters)
    else:
        what = "trained parameters' optimiser state"
        total = sum(p.numel() for p in engine.module.parameters() if p.requires_grad)
        mine = sum(group.numel() for group in engine.optimizer.single_partition_of_fp32_groups)
        parameters = []
    most = round(devices.agree([mine], "MAX")[0])
    if most > total / count * 1.05 + 1024 + count * len(parameters):  # padding to whole and aligned parts
        raise RuntimeError(
            f"ZeRO-{strategy.stage} failed: of {total:,} numbers one of {count} processes holds {most:,}"
        )
    return (
        f"sharded: ZeRO-{strategy.stage}, {what}, {total:,} numbers, over {count} processes; "
        f"this one holds {mine:,} ({mine / total:.1%}), the fullest {most:,}"
    )


def gathered(engine: Any, strategy: StrategyConfig, trainable_only: bool) -> dict[str, Any] | None:
    """The whole weights in host memory on the first process; None where every process holds them. Called by all."""
    if strategy.stage < 3:
        return None
    return engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=trainable_only) or {}
