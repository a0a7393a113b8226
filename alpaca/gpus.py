"""GPUs that a plan can be made for: memory, speed and an assumed price. Knows no torch.

Memory and dense 16-bit tensor throughput are the vendors' data sheets'; the prices are an assumption about on-demand
clouds, there to compare plans with one another: `plan.usd_per_hour` sets your own.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """`gib`: memory; `tflops`: dense bf16 (fp16 where `bf16` is false), 1e12 a second; `usd`: assumed, for an hour."""

    gib: float
    tflops: float
    usd: float
    bf16: bool = True


GPUS = {
    "3090": Gpu(24, 71, 0.30),
    "4090": Gpu(24, 165, 0.50),
    "5090": Gpu(32, 209, 0.80),
    "t4": Gpu(16, 65, 0.35, bf16=False),
    "v100-32g": Gpu(32, 125, 1.00, bf16=False),
    "l4": Gpu(24, 121, 0.70),
    "a10g": Gpu(24, 70, 1.00),
    "a6000": Gpu(48, 155, 0.80),
    "l40s": Gpu(48, 362, 1.20),
    "a100-40g": Gpu(40, 312, 1.50),
    "a100-80g": Gpu(80, 312, 2.00),
    "h100": Gpu(80, 989, 3.00),
    "h200": Gpu(141, 989, 4.00),
    "b200": Gpu(180, 2250, 6.00),
}
