"""python benchmarks/whole_command.py: from the command to the saved model, beside TRL's SFTTrainer.

Both commands get the same model, rows, micro-batch, accumulation, epochs, optimiser, dtype and threads, and take loss on
the response alone. This project's rehearses the save and reads the saved model again in a fresh process, within its
time. TRL runs from an environment of its own that the benchmark makes (it borrows torch and transformers from here), as
it is by default, which recomputes activations; --without-recompute adds a run without.
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
from benchmarks import record, training  # noqa: E402

TRL = "trl==1.16.0"


def environment(folder: Path) -> Path:
    """The Python of a virtual environment with TRL and, by a .pth file, everything that is installed here."""
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", TRL], check=True)
        (folder / "ready").touch()
    site = next((folder / "lib").glob("python*/site-packages"))
    here = Path(next(p for p in sys.path if p.endswith("site-packages"))).resolve()
    (site / "borrowed.pth").write_text(f"{here}\n")  # each time: another copy of this project may have made the folder
    return python


def trl_command(plan: dict[str, Any]) -> None:
    """What a user of TRL would run; called in its environment."""
    import datasets
    import transformers
    import yaml
    from trl import SFTConfig, SFTTrainer

    prompt = yaml.safe_load((ROOT / "conf" / "prompt" / "alpaca.yaml").read_text(encoding="utf-8"))
    rows = [
        {
            "prompt": prompt["with_input" if r["input"] else "without_input"].format_map(r),
            "completion": r["output"],
        }
        for r in json.loads(Path(plan["rows"]).read_text(encoding="utf-8"))
    ]
    settings = {} if plan["recompute"] else {"gradient_checkpointing": False}
    arguments = SFTConfig(
        output_dir=plan["out"],
        max_length=512,
        completion_only_loss=True,
        per_device_train_batch_size=plan["micro"],
        gradient_accumulation_steps=plan["global"] // plan["micro"],
        num_train_epochs=plan["epochs"],
        learning_rate=2e-5,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        bf16=False,
        logging_steps=1,
        seed=42,
        report_to="none",
        save_strategy="no",
        **settings,
    )
    trainer = SFTTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(plan["model"]),
        processing_class=transformers.AutoTokenizer.from_pretrained(plan["model"]),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
    )
    trainer.train()
    trainer.save_model(plan["out"])
    losses = [h["loss"] for h in trainer.state.log_history if "loss" in h]
    (Path(plan["out"]) / "losses.json").write_text(json.dumps(losses))


def our_command(plan: dict[str, Any]) -> list[str]:
    """The same run of this project."""
    return [
        "train.py",
        "experiment=stanford_alpaca_7b",
        "strategy=single",
        "model=hub",
        f"model.path={plan['model']}",
        "data=custom",
        f"data.path={plan['rows']}",
        f"data.cache={plan['out']}/cache",
        f"batch.global_size={plan['global']}",
        f"batch.per_device={plan['micro']}",
        "loss_average=token",
        "precision=fp32",
        f"trainer.num_train_epochs={plan['epochs']}",
        "trainer.save_strategy=no",
        f"hydra.run.dir={plan['out']}/run",
    ]


def timed(command: list[str], plan: dict[str, Any]) -> float:
    """Seconds a command takes from its start to its end."""
    environ = os.environ | {"OMP_NUM_THREADS": str(plan["threads"]), "HF_HUB_OFFLINE": "1", "HF_HOME": plan["out"]}
    Path(plan["out"]).mkdir()
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=ROOT)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)[:200]} failed:\n{done.stderr[-4000:]}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--micro", type=int, nargs="+", default=[4])
    parser.add_argument("--global-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--without-recompute", action="store_true", help="TRL also with gradient_checkpointing=False")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--data", default=str(training.SHARED / "data" / "alpaca_data.json"))
    parser.add_argument("--tokenizer", default=str(training.SHARED / "tokenizers" / "llama"))
    parser.add_argument("--venv", default=str(Path(tempfile.gettempdir()) / "alpaca-benchmark-trl"))
    parser.add_argument("--plan", type=json.loads, help=argparse.SUPPRESS)
    record.option(parser)
    arguments = parser.parse_args()
    if arguments.plan:
        trl_command(arguments.plan)
        return
    python = environment(Path(arguments.venv))
    with tempfile.TemporaryDirectory() as scratch:
        measure(arguments, python, Path(scratch))


def measure(arguments: argparse.Namespace, python: Path, scratch: Path) -> None:
    """Three commands at every micro-batch, as a table."""
    rows = json.loads(Path(arguments.data).read_text(encoding="utf-8"))[: arguments.rows]
    (scratch / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    plan: dict[str, Any] = {"family": "llama", "sizes": training.SIZES, "tokenizer": arguments.tokenizer}
    plan["model"] = str(training.model_folder(plan, scratch / "model"))
    plan |= {"rows": str(scratch / "rows.json"), "threads": arguments.threads, "epochs": arguments.epochs}
    plan["global"] = arguments.global_size
    lines = []
    for micro in arguments.micro:
        plan["micro"] = micro
        mine = plan | {"out": str(scratch / f"ours-{micro}")}
        ours = timed([sys.executable, *our_command(mine)], mine)
        metrics = (Path(mine["out"]) / "run" / "metrics.jsonl").read_text().splitlines()
        last = [json.loads(line)["loss"] for line in metrics][-1]
        for recompute in (True, False) if arguments.without_recompute else (True,):
            theirs = plan | {"out": str(scratch / f"trl-{micro}-{recompute}"), "recompute": recompute}
            seconds = timed([str(python), __file__, "--plan", json.dumps(theirs)], theirs)
            name = f"micro-batch {micro}, {'TRL by default, which recomputes activations' if recompute else 'gradient_checkpointing=False'}"
            lost = json.loads((Path(theirs["out"]) / "losses.json").read_text())[-1]
            figures = [f"{seconds:.1f} s (last loss {lost:.4f})", f"{ours:.1f} s (last loss {last:.4f})"]
            lines.append([name, *figures, f"{seconds / ours:.2f} times faster"])
    about = (
        f"Tiny llama as in training steps, {len(rows):,} rows, {arguments.epochs} epoch, {arguments.global_size} rows to "
        f"an optimiser step, fp32, {arguments.threads} threads; {TRL}. Here with the save rehearsed and the saved model "
        "read again in a fresh process."
    )
    body = record.table(["whole command", "TRL SFTTrainer", "here", "ratio"], lines)
    record.section("From the command to the saved model", f"{about}\n\n{body}", arguments.record)


if __name__ == "__main__":
    main()
