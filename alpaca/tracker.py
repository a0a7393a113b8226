"""Metrics to Weights & Biases or TensorBoard, beside metrics.jsonl. Never asks for a login and never waits for a network."""

import os
import secrets
import socket
from collections.abc import Callable
from typing import Any

from alpaca import console, schema
from alpaca.config import TrackerConfig, TrainConfig
from alpaca.errors import Interrupted, UserError, first_line
from alpaca.results import RunFolder


def start(config: TrainConfig, folder: RunFolder) -> Any:
    """The tracker that `tracker=` names, or None."""
    if config.tracker.name == "wandb":
        return WandbTracker(config, folder)
    if config.tracker.name == "tensorboard":
        return TensorboardTracker(folder)
    return None


class TensorboardTracker:
    """Event files under the run folder."""

    def __init__(self, folder: RunFolder) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder.path / "tensorboard"))

    def log(self, values: dict[str, float], step: int) -> None:
        """One point of every curve."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self, status: str) -> None:
        """Write what is left."""
        self.writer.close()


class WandbTracker:
    """A W&B run; a resumed training goes on in the same one."""

    def __init__(self, config: TrainConfig, folder: RunFolder) -> None:
        import wandb

        self.lost = False
        tracker = config.tracker
        id_file = folder.path / "wandb_id"
        run_id = os.environ.get("WANDB_RUN_ID") or (id_file.read_text().strip() if id_file.is_file() else "")
        run_id = run_id or secrets.token_hex(4)
        id_file.write_text(run_id)
        try:
            self.run = self._init(wandb, tracker, folder, run_id, config)
        except Interrupted:
            raise
        except Exception as error:
            raise UserError(
                f"W&B does not start ({first_line(error)}): check WANDB_API_KEY and WANDB_BASE_URL, or use "
                "WANDB_MODE=offline or tracker=none"
            ) from error

    @staticmethod
    def _init(wandb: Any, tracker: TrackerConfig, folder: RunFolder, run_id: str, config: TrainConfig) -> Any:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", tracker.project),
            entity=os.environ.get("WANDB_ENTITY", tracker.entity),
            group=os.environ.get("WANDB_RUN_GROUP", tracker.group),
            name=os.environ.get("WANDB_NAME", tracker.run_name or folder.path.name),
            tags=tracker.tags or None,
            id=run_id,
            resume=os.environ.get("WANDB_RESUME", "allow"),
            dir=os.environ.get("WANDB_DIR", str(folder.path)),
            config=schema.to_plain(config),
            mode=mode(),
            settings=wandb.Settings(console="off", silent=True, init_timeout=60),
        )

    def log(self, values: dict[str, float], step: int) -> None:
        """One point of every curve."""
        self._hand_over(lambda: self.run.log(values, step=step))

    def finish(self, status: str) -> None:
        """Hand over what is left."""

        def end() -> None:
            self.run.summary["status"] = status
            self.run.finish(exit_code=0 if status == "completed" else 1)

        self._hand_over(end)

    def _hand_over(self, work: Callable[[], None]) -> None:
        """Do `work`. A W&B that is lost costs its curves, which metrics.jsonl has too, and not the training."""
        if self.lost:
            return
        try:
            work()
        except Interrupted:
            raise
        except Exception as error:
            self.lost = True
            console.warn(f"W&B takes nothing more ({first_line(error)}); the training goes on, see metrics.jsonl")


def mode() -> Any:
    """WANDB_MODE, else online where there are a key and a network, else offline, said out loud."""
    if given := os.environ.get("WANDB_MODE"):
        return given
    why = None
    if not os.environ.get("WANDB_API_KEY") and not _netrc_has_key():
        why = "there is no WANDB_API_KEY"
    elif not _reachable(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")):
        why = "the W&B server cannot be reached"
    if why:
        console.say(f"notice: W&B runs offline, since {why}; `wandb sync` uploads the run later")
        return "offline"
    return "online"


def _netrc_has_key() -> bool:
    import netrc
    from urllib.parse import urlparse

    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable(url: str) -> bool:
    from urllib.parse import urlparse

    parts = urlparse(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True
