"""What watches over the steps: loss checks before each optimiser step, the progress bar, and stopping on a signal."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alpaca import console, devices, zero

if TYPE_CHECKING:
    from alpaca.trainer import AlpacaTrainer


class Guards(TrainerCallback):
    """Loss checks before each optimiser step, the progress bar, and stopping on a signal."""

    def __init__(self) -> None:
        self.trainer: AlpacaTrainer | None = None
        self.signal: int | None = None
        self.bar: Any = None
        self.first: tuple[float, int] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where an interrupted run stopped."""
        assert self.trainer is not None
        self.trainer.started = time.monotonic()
        if self.trainer.deepspeed is not None:
            console.say(zero.report(self.trainer.deepspeed, self.trainer.engine))
        if state.is_world_process_zero:
            from tqdm.auto import tqdm

            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True, desc="training"
            )
            self.first = (time.monotonic(), self.trainer.tokens)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The last moment at which a bad loss does no harm."""
        assert self.trainer is not None
        self.trainer.check_losses()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the bar; after a signal, save and stop here."""
        if self.bar is not None:
            self.bar.update(1)
        if devices.world_size() > 1:  # a signal reaches the processes at different steps: all stop at the same one
            self.signal = int(devices.agree([self.signal or 0], "MAX")[0]) or None
        if self.signal is not None:
            control.should_save = True
            control.should_training_stop = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Show loss and real tokens per second."""
        if self.bar is not None and self.trainer is not None and self.first and "loss" in (logs or {}):
            rate = (
                devices.world_size()
                * (self.trainer.tokens - self.first[1])
                / max(1e-9, time.monotonic() - self.first[0])
            )
            self.bar.set_postfix_str(f"loss {logs['loss']:.4f}, {rate:,.0f} tokens/s")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Say the evaluation loss above the bar."""
        if state.is_world_process_zero and metrics:
            text = f"step {state.global_step}: evaluation loss {metrics['eval_loss']:.4f} over {metrics['eval_tokens']:,} tokens"
            if self.bar is not None:
                self.bar.write(text, file=self.bar.fp)
            else:
                console.say(text)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Whatever was not read yet, and close the bar."""
        assert self.trainer is not None
        self.trainer.read()
        self.close()

    def close(self) -> None:
        """Close the bar, also after an error."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While training, the first SIGINT or SIGTERM asks to save and stop; a second SIGINT stops at once."""

        def note(number: int, frame: FrameType | None) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number
            if devices.is_main():
                os.write(2, b"\nstopping: a checkpoint is saved at the end of this step (Ctrl-C again stops at once)\n")

        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.close()
