"""The published figures: what, how much, where it stands, and how far ours may be from it. Computes nothing.

Tolerances of measured figures (MMLU, losses) are this project's choice: 1 point is about two standard errors of an
accuracy over MMLU's 14,042 test questions.
"""

from dataclasses import dataclass
from typing import Any, Literal

from alpaca.evaluation.recipes import FP4, NF4, RECIPES, SIXTEEN

Status = Literal["PASS", "FAIL", "NEEDS-GPU", "NEEDS-WEIGHTS", "NEEDS-DATA"]
LLAMA, OPT = "arXiv 2302.13971 (released weights)", "arXiv 2205.01068 (released weights)"
STANFORD, DATA = "tatsu-lab/stanford_alpaca", "tatsu-lab/stanford_alpaca, alpaca_data.json"
TABLE4, TABLE5, TEST = "arXiv 2305.14314, table 4", "arXiv 2305.14314, table 5", "MMLU 5-shot, test split"
SIZES = {"7B": 6_738_415_616, "13B": 13_015_864_320, "33B": 32_528_943_616, "65B": 65_285_660_672}
MODELS = {"7B": "llama7b", "13B": "llama13b", "33B": "llama30b", "65B": "llama65b"}


@dataclass(frozen=True)
class Figure:
    """A published figure. `name` is unique; `needs` and `command` are for when ours is not there."""

    name: str
    published: Any
    source: str
    tolerance: float = 0.0
    at_most: bool = False
    """The published value is a bound (seconds, dollars)."""
    needs: Status = "NEEDS-DATA"
    command: str = ""


def figures() -> list[Figure]:
    """Every row of the ledger."""
    return [*_sizes(), *_data(), *_steps(), *_tokens(), *_recipes(), *_training(), *_mmlu()]


def _sizes() -> list[Figure]:
    rows = [Figure(f"parameters, LLaMA {size}", count, LLAMA) for size, count in SIZES.items()]
    rows.append(Figure("parameters, OPT-6.7B", 6_658_473_984, OPT))
    lora, qlora = "tloen/alpaca-lora", "arXiv 2305.14314, appendix B"
    counts = [
        ("LLaMA-7B r8 on q, v", 4_194_304, lora),
        ("LLaMA-7B r16 on q, k, v, o", 16_777_216, lora),
        ("LLaMA-7B r64 on all linear", 159_907_840, qlora),
        ("LLaMA-13B r8 on q, v", 6_553_600, lora),
        ("LLaMA-13B r64 on all linear", 250_347_520, qlora),
    ]
    rows += [Figure(f"LoRA parameters, {what}", count, source) for what, count, source in counts]
    shares = [("LLaMA-7B r8 on q, v", 0.0622), ("LLaMA-7B r16 on q, k, v, o", 0.2484)]
    return rows + [Figure(f"LoRA share in %, {what}", share, lora, 5e-5) for what, share in shares]


def _data() -> list[Figure]:
    command = "python evaluate.py task=paper data.path=alpaca_data.json"
    rows = [
        ("rows", 52_002), ("unique instructions", 52_002), ("rows with input", 20_679), ("empty outputs", 28),
        ("pairs of instructions", 1_352_078_001), ("pairs with ROUGE-L F1 above 0.7", 0),
    ]  # fmt: skip
    result = [Figure(f"Alpaca-52k, {what}", number, DATA, command=command) for what, number in rows]
    result.append(Figure("Alpaca-52k, rows with input in %", 39.77, DATA, 0.005, command=command))
    seeds = "Alpaca-52k, pairs with the 175 seed tasks above 0.7"
    return [*result, Figure(seeds, 0, DATA, command=f"{command} ledger.seeds=seed_tasks.jsonl")]


def _steps() -> list[Figure]:
    told = "the recipe: rows, sequences a step, epochs"
    counts = {"stanford_alpaca_13b": 2035, "stanford_alpaca_opt6.7b": 1221, "alpaca_lora_original": 1173, "alpaca_lora_official": 3910}  # fmt: skip
    rows = [
        Figure("optimiser steps, stanford_alpaca_7b", 1221, STANFORD),
        Figure("optimiser steps, stanford_alpaca_7b, partial batches dropped", 1218, STANFORD),
        *(Figure(f"optimiser steps, {name}", number, told) for name, number in counts.items()),
    ]
    for size, steps in {"7b": 10_000, "13b": 10_000, "33b": 5_000, "65b": 2_500}.items():
        source = "arXiv 2305.14314" + (" (unconfirmed)" if size in ("33b", "65b") else "")
        rows.append(Figure(f"optimiser steps, qlora_alpaca_{size}", steps, source))
        rows.append(Figure(f"epochs of these, qlora_alpaca_{size}", 3.1, source, 0.05))
    return rows


def _tokens() -> list[Figure]:
    rows = []
    ids = {"llama": [1, 13866, 338, 385, 15278, 393], "opt": [2, 45943, 16, 41, 15741, 14]}
    for name, label, mean in (("llama", "LLaMA", 127), ("opt", "OPT", 112)):
        command = f"python evaluate.py task=paper data.path=alpaca_data.json ledger.{name}_tokenizer=DIR"
        rows += [
            Figure(f"first ids of the prompt, {label} tokenizer", ids[name], f"the {label} tokenizer", command=command),
            Figure(f"mean tokens of an example, {label} tokenizer", mean, DATA, 1.0, command=command),
            Figure(f"share of response tokens, {label} tokenizer", 0.5, DATA, 0.06, command=command),
        ]
    return rows


HUMAN = "human comparison with text-davinci-003, wins in %"
VOTED = 179
"""Questions that Stanford's authors decided; the tolerance is about two standard errors of so many."""
_VOTE = (
    "python evaluate.py task=judge human=true run=outputs/stanford_alpaca_7b versus=text-davinci-003.jsonl "
    "data.path=user_oriented_instructions.jsonl hydra.run.dir=outputs/votes "
    "&& python evaluate.py task=paper ledger.runs=[outputs/votes]"
)


def _recipes() -> list[Figure]:
    return [Figure(f"settings of {name} that differ", 0, "its authors' scripts") for name in RECIPES]


def _training() -> list[Figure]:
    def train(name: str, gpus: int) -> str:
        out = f"outputs/{name}"
        return f"python train.py experiment={name} launch.processes={gpus} hydra.run.dir={out} && python evaluate.py task=paper ledger.runs=[{out}]"

    issue = f"{STANFORD}, issue 168"
    gpu: Status = "NEEDS-GPU"
    return [
        Figure(
            "stanford_alpaca_7b, train loss (mean of all steps)",
            0.736,
            issue,
            0.02,
            needs=gpu,
            command=train("stanford_alpaca_7b", 4),
        ),  # fmt: skip
        Figure(
            "stanford_alpaca_7b, seconds on 4 A100-80G",
            4745,
            issue,
            at_most=True,
            needs=gpu,
            command=train("stanford_alpaca_7b", 4),
        ),  # fmt: skip
        Figure(
            "stanford_alpaca_7b, seconds on 8 A100-80G",
            3 * 3600,
            f"{STANFORD}, authors' post",
            at_most=True,
            needs=gpu,
            command=train("stanford_alpaca_7b", 8),
        ),  # fmt: skip
        Figure(
            "data generation, US dollars for 52,002 rows",
            500,
            STANFORD,
            at_most=True,
            command="python generate_data.py num_instructions=52002 budget.max_usd=500",
        ),  # fmt: skip
        Figure(HUMAN, 100 * 90 / VOTED, f"{STANFORD}, 90 wins to 89", 7.5, command=_VOTE),
    ]


def _mmlu() -> list[Figure]:
    rows = []
    untuned = {"7B": 35.1, "13B": 46.9, "33B": 57.8, "65B": 63.4}
    tuned = {"7B": 38.8, "13B": 47.8, "33B": 57.3, "65B": 62.5}
    kept = {
        "BF16": {"7B": 38.4, "13B": 47.2, "33B": 57.7, "65B": 61.8},
        "FP4": {"7B": 37.2, "13B": 47.3, "33B": 55.9, "65B": 61.3},
        "NF4+DQ": {"7B": 39.0, "13B": 47.5, "33B": 57.3, "65B": 61.8},
    }
    how = {
        "BF16": ("_bf16", "method.quantize=null"),
        "FP4": ("_fp4", "method.quantize.type=fp4 method.quantize.double=false"),
    }
    for size, value in untuned.items():
        name = f"{TEST}, LLaMA {size} untuned"
        rows.append(Figure(name, value, TABLE5, 1.0, needs="NEEDS-WEIGHTS", command=f"python evaluate.py task=mmlu model=LLAMA_{size}_DIR hydra.run.dir=outputs/mmlu && python evaluate.py task=paper ledger.runs=[outputs/mmlu]"))  # fmt: skip
    groups = [("QLoRA", TABLE5, tuned), *((k, TABLE4, v) for k, v in kept.items())]
    for label, source, values in groups:
        for size, value in values.items():
            command = _tune_and_ask(f"qlora_alpaca_{size.lower()}", how.get(label, ("", "")))
            name = f"{TEST}, Alpaca {label} {size}"
            rows.append(Figure(name, value, source, 1.0, needs="NEEDS-GPU", command=command))
    return rows


def _tune_and_ask(recipe: str, variant: tuple[str, str]) -> str:
    out = f"outputs/{recipe}{variant[0]}"
    train = " ".join(filter(None, ["python train.py", f"experiment={recipe}", variant[1], f"hydra.run.dir={out}"]))
    return f"{train} && python evaluate.py task=mmlu run={out} && python evaluate.py task=paper ledger.runs=[{out}]"


VARIANTS = {"Alpaca QLoRA": NF4, "Alpaca BF16": SIXTEEN, "Alpaca FP4": FP4, "Alpaca NF4+DQ": NF4}
"""How the base of each MMLU row is kept while the adapter is trained."""
