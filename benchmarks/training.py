"""python benchmarks/training.py: this project's training step against a plain one, micro-batch by micro-batch.

The plain one is the original's way with the Hugging Face Trainer: rows tokenised one at a time, batches padded, logits
at every position. Each side runs in its own process on the same model, rows, order, dtype and threads; tokens are real
ones. Peak memory is the process's, and what it grew by over the loaded model beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import record  # noqa: E402

SHARED = Path(os.environ.get("ALPACA_SHARED", ROOT.parent / "shared"))
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 1024,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "gemma2": {"head_dim": 32},
    "cohere": {},
    "opt": {"ffn_dim": 1024, "word_embed_proj_dim": 256, "dropout": 0.0},
}
"""What a family takes besides `SIZES`; the vocabulary is the tokenizer's."""


def sizes(family: str) -> dict[str, int]:
    """The fields of the tiny model of a family."""
    return {k: v for k, v in SIZES.items() if family != "opt" or k not in ("intermediate_size", "num_key_value_heads")}


def peak(since: str = "") -> float:
    """Largest resident memory of this process in MB; `reset` starts to measure anew."""
    if since == "reset":
        Path("/proc/self/clear_refs").write_text("5")
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def clock(plan: dict[str, Any]) -> Any:
    """A callback that notes when each optimiser step ended."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        ends: list[float] = []

        def on_train_begin(self, *args: Any, **keywords: Any) -> None:
            self.loaded = peak("reset")

        def on_step_end(self, *args: Any, **keywords: Any) -> None:
            self.ends.append(time.perf_counter())

        def report(self, losses: list[float]) -> dict[str, Any]:
            skip = plan["skip"]
            seconds = self.ends[-1] - self.ends[skip - 1]
            return {"seconds": seconds, "loss": losses, "peak": peak(), "grown": peak() - self.loaded}

    return Clock()


def model_folder(plan: dict[str, Any], folder: Path) -> Path:
    """The model of both sides, with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(plan["tokenizer"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    fields = {"vocab_size": len(tokenizer)} | FAMILIES[plan["family"]] | plan["sizes"]
    config = transformers.AutoConfig.for_model(plan["family"], **fields)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain(plan: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """The original's way."""
    import torch
    import transformers
    import yaml

    prompt = yaml.safe_load((ROOT / "conf" / "prompt" / "alpaca.yaml").read_text(encoding="utf-8"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(plan["model"], padding_side="right", model_max_length=512)
    model = transformers.AutoModelForCausalLM.from_pretrained(plan["model"], dtype=torch.float32)
    examples = []
    for row in json.loads(Path(plan["rows"]).read_text(encoding="utf-8")):
        source = prompt["with_input" if row["input"] else "without_input"].format_map(row)
        ids = tokenizer(source + row["output"] + tokenizer.eos_token, truncation=True).input_ids
        taken = len(tokenizer(source, truncation=True).input_ids)
        examples.append({"input_ids": ids, "labels": [-100] * taken + ids[taken:]})

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        def pad(name: str, fill: int) -> Any:
            rows = [torch.tensor(b[name]) for b in batch]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)

        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(b["input_ids"])) for b in batch], batch_first=True)
        return {"input_ids": pad("input_ids", 0), "labels": pad("labels", -100), "attention_mask": mask.long()}

    arguments = transformers.TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=1,
        per_device_train_batch_size=plan["micro"],
        gradient_accumulation_steps=plan["global"] // plan["micro"],
        learning_rate=2e-5,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        optim="adamw_torch",
        logging_steps=1,
        seed=42,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        log_level="error",
    )
    watch = clock(plan)
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=examples, data_collator=collate, callbacks=[watch]
    )
    trainer.train()
    return watch.report([h["loss"] for h in trainer.state.log_history if "loss" in h])


def ours(plan: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """The steps of `train.py experiment=stanford_alpaca_7b` on this model, averaged over tokens as the Trainer does."""
    from alpaca import building, preparing, training
    from alpaca import precision as precisions
    from alpaca.results import RunFolder
    from tests.commands import compose

    config = compose(
        "experiment=stanford_alpaca_7b",
        "strategy=single",
        "model=hub",
        f"model.path={plan['model']}",
        "data=custom",
        f"data.path={plan['rows']}",
        f"data.cache={scratch / 'cache'}",
        f"batch.global_size={plan['global']}",
        f"batch.per_device={plan['micro']}",
        "loss_average=token",
        "precision=fp32",
        "trainer.num_train_epochs=1",
        "trainer.save_strategy=no",
        *plan["more"],
    )
    folder = RunFolder(scratch / "run")
    (scratch / "run").mkdir()
    precision = precisions.choose(config)
    building.seed_everything(config.seed)
    parts = preparing.prepare(config, folder)
    assert parts.prepared is not None
    model = building.build_model(config, folder, parts, precision)
    steps = preparing.plan_of(config, len(parts.prepared.train))
    trainer, guards = building.build_trainer(config, folder, parts, model, steps, precision)
    watch = clock(plan)
    trainer.add_callback(watch)
    training.train(trainer, guards, folder, None)
    found = watch.report([m["loss"] for m in folder.read_metrics() if "loss" in m])
    return found | {"tokens": [m["tokens"] for m in folder.read_metrics()]}


def side(name: str, plan: dict[str, Any]) -> dict[str, Any]:
    """One side in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(plan["threads"]), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--side", name, "--plan", json.dumps(plan)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"the {name} side failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--micro", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--global-size", type=int, default=64)
    parser.add_argument("--rows", type=int, default=640, help="rows of the data; one epoch over them")
    parser.add_argument("--skip", type=int, default=2, help="optimiser steps that warm up")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--family", choices=list(FAMILIES), default="llama")
    parser.add_argument("--data", default=str(SHARED / "data" / "alpaca_data.json"))
    parser.add_argument("--tokenizer", help="folder of the tokenizer; OPT's for OPT, else LLaMA's, in $ALPACA_SHARED")
    parser.add_argument("--sizes", type=json.loads, default={}, help='fields of the model, as {"hidden_size": 256}')
    parser.add_argument("--more", nargs="*", default=[], help="overrides of this project's side")
    parser.add_argument("--side", choices=["plain", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--plan", type=json.loads, help=argparse.SUPPRESS)
    record.option(parser)
    arguments = parser.parse_args()
    if arguments.side:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps((plain if arguments.side == "plain" else ours)(arguments.plan, Path(scratch))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        measure(arguments, Path(scratch))


def measure(arguments: argparse.Namespace, scratch: Path) -> None:
    """Both sides at every micro-batch, as a table."""
    plan: dict[str, Any] = {
        "family": arguments.family,
        "sizes": sizes(arguments.family) | arguments.sizes,
        "tokenizer": arguments.tokenizer
        or str(SHARED / "tokenizers" / ("opt" if arguments.family == "opt" else "llama")),
        "global": arguments.global_size,
        "skip": arguments.skip,
        "threads": arguments.threads,
        "more": arguments.more,
        "rows": str(scratch / "rows.json"),
    }
    rows = json.loads(Path(arguments.data).read_text(encoding="utf-8"))[: arguments.rows]
    Path(plan["rows"]).write_text(json.dumps(rows), encoding="utf-8")
    plan["model"] = str(model_folder(plan, scratch / "model"))
    lines = []
    for micro in arguments.micro:
        plan["micro"] = micro
        new, old = side("ours", plan), side("plain", plan)
        tokens = new["tokens"][-1] - new["tokens"][arguments.skip - 1]
        apart = max(abs(a - b) / b for a, b in zip(new["loss"], old["loss"], strict=True))
        lines += [
            row(f"tokens/s, micro-batch {micro}", tokens / old["seconds"], tokens / new["seconds"], "times"),
            row(f"peak memory in MB, micro-batch {micro}", old["peak"], new["peak"], "of it"),
            row("… above the loaded model", old["grown"], new["grown"], "of it"),
            [f"largest difference of a step's loss, micro-batch {micro}", "", f"{apart:.1e}", "relative"],
        ]
    title = f"Training steps, tiny {arguments.family}"
    fields = ", ".join(f"{k} {v}" for k, v in plan["sizes"].items())
    about = (
        f"{arguments.family}: {fields}; {len(rows)} rows of {Path(arguments.data).name}, {arguments.global_size} to an "
    )
    about += f"optimiser step, fp32, {arguments.threads} threads; the first {arguments.skip} steps are not timed. "
    about += "AdamW on both sides: the original's optim=adamw_torch there, the default here."
    body = record.table(["work", "plain Trainer, padded, all logits", "here", "ratio"], lines)
    record.section(title, f"{about}\n\n{body}", arguments.record)


def row(name: str, old: float, new: float, unit: str) -> list[str]:
    ratio = new / old
    return [name, f"{old:,.0f}", f"{new:,.0f}", f"{ratio:.2f} {unit}"]


if __name__ == "__main__":
    main()
