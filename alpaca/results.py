"""The run folder: what is in it and how it is written. Knows no torch.

config.yaml         the resolved config
environment.json    versions, git revision, hardware, the command
base/               the base model and tokenizer when they were made on the spot
metrics.jsonl       one object a line: step, loss, learning_rate, tokens, seconds; eval_loss on evaluation lines
loss.png            the curve
checkpoints/        resumable state, newest last
model/              what from_pretrained or PEFT loads, with tokenizer, prompt and model card
result.json         status completed|failed|interrupted, final figures, warnings, error text
"""

import fcntl
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from alpaca import console
from alpaca.errors import UserError

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed", "hydra-core", "safetensors")

ATTEMPT = (
    "config.yaml", "environment.json", "base", "checkpoints", "model", "metrics.jsonl", "loss.png", "result.json",
    "tensorboard", "wandb", "wandb_id",
)  # fmt: skip
"""What an attempt at training leaves in its folder; resume=none moves all of it away."""


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.base = self.path / "base"
        self.base_staging = self.path / ".base"
        self.model = self.path / "model"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self._lock: IO[str] | None = None

    def lock(self) -> None:
        """Take the folder for this process, until it ends. Raises UserError when another run has it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
            for attempt in range(5):  # who asks whether it is locked holds it for a moment
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt == 4:
                        raise
                    time.sleep(0.05)
        except BlockingIOError:
            raise UserError(
                f"{self.path} is in use by another run: wait for it, or give another folder with hydra.run.dir=DIR"
            ) from None
        except OSError as error:
            raise UserError(
                f"the run folder {self.path} cannot be written ({error.strerror}): hydra.run.dir=DIR"
            ) from None

    def is_locked(self) -> bool:
        """Whether a process holds this folder now."""
        try:
            with (self.path / ".lock").open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def release(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def read_result(self) -> dict[str, Any]:
        """result.json, or an empty dict where there is none yet or it is damaged."""
        try:
            result = json.loads((self.path / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return result if isinstance(result, dict) else {}

    def write_result(self, status: str, **figures: Any) -> None:
        """result.json, written beside and renamed."""
        data = {"status": status, **figures, "warnings": console.warnings()}
        write_atomic(self.path / "result.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def write_config(self, config: dict[str, Any]) -> None:
        """config.yaml; says what differs from the one that the folder was started with."""
        if self.config.is_file():
            before = OmegaConf.to_container(OmegaConf.load(self.config))
            for key, (old, new) in differences(before, config).items():
                if key not in ("resume", "dry_run"):
                    console.warn(f"this run folder was started with {key}={old}, and goes on with {key}={new}")
        write_atomic(self.config, OmegaConf.to_yaml(OmegaConf.create(config)))

    def write_environment(self) -> None:
        """environment.json: what would be needed to run this again."""
        write_atomic(self.path / "environment.json", json.dumps(environment(), indent=2) + "\n")

    def append_metrics(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl; it survives the end of the process at once."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line torn by a killed writer is left out."""
        if not self.metrics.is_file():
            return []
        result = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                result.append(json.loads(line))
            except ValueError:
                continue
        return result

    def cut_metrics(self, step: int) -> None:
        """Drop what was logged after `step`: a resumed run logs it again."""
        lines = [m for m in self.read_metrics() if m.get("step", 0) <= step]
        write_atomic(self.metrics, "".join(json.dumps(m) + "\n" for m in lines))

    def set_aside(self) -> None:
        """Move an earlier attempt's files into previous-N/, so that starting again loses nothing."""
        old = [p for p in self.path.iterdir() if p.name in ATTEMPT and p.exists()]
        if not any(p.name != "config.yaml" for p in old):
            return
        taken = [int(n) for p in self.path.glob("previous-*") if (n := p.name.removeprefix("previous-")).isdigit()]
        target = self.path / f"previous-{max(taken, default=0) + 1}"
        target.mkdir()
        for item in old:
            item.rename(target / item.name)
        console.say(f"resume=none: the earlier attempt lies in {target}")

    def plot(self) -> None:
        """loss.png: training loss (and its moving mean) and evaluation loss by step."""
        lines = self.read_metrics()
        train = [(m["step"], m["loss"]) for m in lines if "loss" in m]
        evaluation = [(m["step"], m["eval_loss"]) for m in lines if "eval_loss" in m]
        if not train:
            return
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        steps, losses = zip(*train, strict=True)
        smooth = _moving_mean(losses, max(1, len(losses) // 40))
        axes.plot(
            steps, losses, color="#9db7d5", linewidth=1, label="training loss, each step" if len(train) > 1 else None
        )
        axes.plot(steps, smooth, color="#1f4e8c", linewidth=2, label="training loss, moving mean")
        if evaluation:
            axes.plot(*zip(*evaluation, strict=True), "o-", color="#c4541b", label="evaluation loss")
        axes.set(xlabel="optimiser step", ylabel="cross-entropy (nats per token)", title=self.path.name)
        axes.locator_params(axis="x", integer=True)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        figure.savefig(self.path / "loss.png", dpi=120)
        plt.close(figure)


def newest_run(outputs: Path) -> RunFolder:
    """The run folder below `outputs` whose training was completed last. Raises UserError where there is none."""
    runs = [RunFolder(path.parent) for path in outputs.rglob("result.json")]
    done = [r for r in runs if r.read_result().get("status") == "completed" and r.model.is_dir()]
    if not done:
        raise UserError(f"{outputs}/ holds no completed training: give run=RUN_FOLDER, or run  python train.py  first")
    return max(done, key=lambda r: (r.path / "result.json").stat().st_mtime)


def _moving_mean(values: tuple[float, ...], width: int) -> list[float]:
    result, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - width] if i >= width else 0.0)
        result.append(total / min(i + 1, width))
    return result


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write beside and rename, so that a reader or a crash never meets half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({error.strerror}): free some space or give another folder"
        ) from None


def differences(before: Any, after: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) where two plain trees differ."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return {} if before == after else {prefix.rstrip("."): (before, after)}
    result: dict[str, tuple[Any, Any]] = {}
    for key in [*before, *(k for k in after if k not in before)]:
        result |= differences(before.get(key), after.get(key), f"{prefix}{key}.")
    return result


def environment() -> dict[str, Any]:
    """Versions, git revision, hardware and the command, without secrets."""
    from importlib import metadata  # slow to import, and `--cfg` needs none of it

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpus(),
        "versions": versions,
        "git": _git(),
    }


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _git() -> dict[str, Any] | None:
    """Revision of the project's checkout and whether it has changes; None outside a checkout."""

    def ask(*words: str) -> str:
        root = Path(__file__).resolve().parent.parent
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return {"revision": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":  # python -m alpaca.results DIR
    from alpaca import cli, summary

    cli.with_errors(summary.main)
