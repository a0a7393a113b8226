"""A Hugging Face Trainer whose checkpoints are whole or not there, whatever engine cuts the model, and resume exactly.

Knows no loss and no data.
"""

import os
import shutil
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from alpaca import checkpoints, devices, sharding
from alpaca.config import StrategyConfig
from alpaca.errors import UserError, first_line, is_write_error
from alpaca.results import RunFolder

SHARDED = "sharded"
"""Folder of a checkpoint that holds FSDP's weights and optimiser state."""


class ShardedArguments(TrainingArguments):
    """TrainingArguments of a model that is sharded already and may wait in host memory."""

    @property
    def place_model_on_device(self) -> bool:
        """The Trainer moves nothing."""
        return False


class SavingTrainer(Trainer, ABC):
    """Trainer that saves and resumes in a run folder, and counts tokens and seconds over interruptions."""

    model: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, *, run: RunFolder, engine: StrategyConfig, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.run, self.engine = run, engine
        self.tokens = 0
        self.seconds_before = 0.0
        self.started = time.monotonic()
        self.keep = self.args.save_total_limit
        self._staged: str | None = None

    @abstractmethod
    def order(self) -> dict[str, Any]:
        """What decides which rows a step sees; kept with each checkpoint."""

    def all_tokens(self) -> int:
        """Tokens that all processes have trained on so far. Called by all of them."""
        return int(devices.agree([self.tokens])[0])

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return self.seconds_before + time.monotonic() - self.started

    def _run_epoch(self, *positional: Any, **keywords: Any) -> None:
        """Nothing, where a resumed run had taken its last step already: it was stopped while it saved its model."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*positional, **keywords)

    def _get_output_dir(self, trial: Any) -> str:
        return self._staged or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written into a staging folder, then listed, synced and renamed: a checkpoint is whole or not there."""
        folder = self.run.checkpoints
        staging = folder / checkpoints.STAGING
        name = f"checkpoint-{self.state.global_step}"
        main = self.is_world_process_zero()
        try:
            if main:
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir(parents=True)
            self._barrier()
            self._staged = str(staging)
            super()._save_checkpoint(model, trial)
            self._barrier()
            state: dict[str, Any] = {
                "step": self.state.global_step,
                "tokens": self.all_tokens(),
                "seconds": self.seconds,
            }
            if main:
                state |= {"processes": self.args.world_size, "engine": self.engine.name, "order": self.order()}
                checkpoints.commit(staging / name, folder / name, state)
                checkpoints.rotate(folder, self.keep)
            self._barrier()  # no process ends while the first one still writes
        except Exception as error:
            if is_write_error(error):
                last = checkpoints.newest(folder)
                kept = f"{last.name} is whole" if last else "there is no earlier checkpoint"
                raise UserError(
                    f"checkpoint {name} cannot be written to {folder} ({first_line(error)}); {kept}: "
                    f"free some space and run the same command with hydra.run.dir={self.run.path}"
                ) from error
            raise
        finally:
            self._staged = None
            if main:
                shutil.rmtree(staging, ignore_errors=True)

    def _barrier(self) -> None:
        devices.barrier()

    @property
    def trains_part(self) -> bool:
        """Whether some parameters are frozen: a checkpoint then holds the others alone."""
        return any(not p.requires_grad for p in self.model.parameters())

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The weights of a checkpoint; FSDP writes them together with its optimiser state."""
        if self.engine.name == "fsdp":
            os.makedirs(str(output_dir), exist_ok=True)
        else:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.engine.name != "fsdp":
            super()._save_optimizer_and_scheduler(output_dir)
            return
        inner = self.optimizer.optimizer
        sharding.save_state(self.model, inner, Path(output_dir) / SHARDED, self.engine, self.trains_part)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.engine.name != "fsdp":  # FSDP reads them when there is an optimiser, below
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.engine.name != "fsdp" or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        sharding.load_state(self.model, self.optimizer.optimizer, Path(checkpoint) / SHARDED, self.trains_part)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on counting where a checkpoint stopped."""
        self.tokens = state["tokens"] if self.is_world_process_zero() else 0
        self.seconds_before = state["seconds"]
