"""The Hugging Face Trainer with this project's loss, data order and metrics. Knows no files but the run folder's."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from accelerate.data_loader import DataLoaderShard, SeedableRandomSampler
from torch.distributed.tensor import DTensor
from torch.utils.data import RandomSampler, SequentialSampler
from transformers.distributed.fsdp import is_fsdp_managed_module
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import nested_gather

from alpaca import compiling, devices, forward_check, liger, padding_free
from alpaca.balance import BalancedBatches
from alpaca.compiling import Compiler
from alpaca.config import StrategyConfig
from alpaca.data import Collator
from alpaca.errors import UserError
from alpaca.forward import Forward, Loss, plain_loss, router_loss
from alpaca.guards import Guards
from alpaca.later import Numbers, StepLog, StepLosses
from alpaca.packing import PackedDataset
from alpaca.rank_batches import Filled, RankBatches
from alpaca.results import RunFolder
from alpaca.samplers import EpochLengthGroupedSampler
from alpaca.saving_trainer import SavingTrainer
from alpaca.vote import Vote

ZERO_LOSS_STEPS = 3


class AlpacaTrainer(SavingTrainer):
    """Trainer whose batches carry `rows`, the numbers of their examples in the source."""

    def __init__(
        self,
        *,
        run: RunFolder,
        loss_average: str,
        tracker: Any = None,
        engine: StrategyConfig,
        balance: bool = False,
        liger: bool = False,
        compiler: Compiler | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(run=run, engine=engine, **keywords)
        # the Trainer's way to take a model that is sharded already: no wrapping, no moving
        self.is_distributed_loading_by_transformers = is_fsdp_managed_module(self.model)
        self.balance, self.liger, self.compiler = balance, liger, compiler
        self.loss_average = loss_average
        self.tracker = tracker
        self.forward: Forward | None = None
        self.loss_is_scaled_for_ga = loss_average == "token"
        self.model_accepts_loss_kwargs = True  # so that the Trainer counts the label tokens of the accumulated batch
        self.step_losses: list[tuple[torch.Tensor, list[int]]] = []
        self.unread: list[StepLosses] = []
        self.unlogged: list[StepLog] = []
        self.moment: StepLog | None = None
        """What is being logged, when that is a step of before."""
        self.rows_at_work: list[int] = []
        self.zero_steps = 0
        self.microbatch_scale = 1.0
        self.remove_callback(PrinterCallback)
        if compiler is not None and isinstance(self.data_collator, Collator):
            compiling.compile_layers(self.model, compiler)

    # --- loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """token: sum over the micro-batch / tokens of the accumulated batch; microbatch: mean of the micro-batch."""
        if self.loss_average == "token" and num_items_in_batch is not None:
            # DDP averages the gradients of its ranks, so each rank's share is scaled up to a sum first
            divisor = torch.as_tensor(num_items_in_batch).clamp(min=1) / self.args.world_size
        else:
            divisor = inputs["labels"][:, 1:].ne(-100).sum().clamp(min=1) / self.microbatch_scale
        found = self.forward_loss(model, inputs, divisor)
        found = found._replace(total=found.total + router_loss(self.model, found, divisor))
        if self.deepspeed is not None and not self.late and not bool(torch.isfinite(found.total.detach())):
            self.step_losses.append((found.total.detach(), self.rows_at_work))  # its optimiser steps within backward
            self.check_losses()
        return (found.total, found.output) if return_outputs else found.total

    def forward_loss(self, model: Any, batch: dict[str, Any], divisor: torch.Tensor) -> Loss:
        """Summed loss / divisor of a batch, flat or padded."""
        if "targets" not in batch:
            return plain_loss(model, batch, divisor)
        return self.chosen_forward(model)(model, batch, divisor)

    def chosen_forward(self, model: Any) -> Forward:
        """How flat batches are computed; found out when it is first asked for."""
        if self.forward is None:
            datasets: list[Any] = [d for d in (self.train_dataset, self.eval_dataset) if d is not None]
            examples = [getattr(d, "examples", d) for d in datasets]
            self.forward = Forward(self.model, max(int(d.lengths.max()) for d in examples))
            beyond = padding_free.reach(self.forward.base, self.forward.max_length)
            rows = forward_check.check_examples(datasets[0], self.data_collator, beyond)
            rows = [self._prepare_inputs(r) for r in rows]
            quiet = not self.is_world_process_zero()
            kernels = liger.apply if self.liger else None
            vote = Vote(self.args.ddp_timeout, self.asked_to_stop)
            sizes = self.args.train_batch_size, self.args.eval_batch_size
            both = zip((self.train_dataset, self.eval_dataset), sizes, strict=True)
            tokens = forward_check.longest_batch([(d, rows) for d, rows in both if d is not None])
            forward_check.choose(
                self.forward, self.model, rows, self.compute_loss_context_manager, vote, quiet, kernels, tokens
            )
            if isinstance(self.train_dataset, PackedDataset) and self.forward.way.layout == "padded":
                raise UserError(
                    "data.packing=true needs a model that keeps the examples of a row apart, and with this one "
                    f"{self.forward.reason or 'they are not'}: leave data.packing out"
                )
            if self.compiler is not None:
                compiling.compile_layers(self.model, self.compiler)
                self.forward.compiled = True
        return self.forward

    def asked_to_stop(self) -> bool:
        """Whether a signal came that ends the run with its next step."""
        return any(isinstance(c, Guards) and c.signal is not None for c in self.callback_handler.callbacks)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward pass; remembers loss and rows for the guards."""
        rows = self.rows_at_work = inputs.pop("rows")
        if rows[0] >= 0:  # not a filler
            self.tokens += sum(inputs["lengths"])
        flat = "targets" in inputs
        with self.chosen_forward(model).drawing(inputs) if flat else nullcontext():
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.step_losses.append((loss, rows))
        return loss

    @property
    def late(self) -> bool:
        """Whether losses are read a step late: looking at them now would make the host wait for its device."""
        return self.args.device.type != "cpu"

    def check_losses(self) -> None:
        """Stop a run whose loss is not finite, or has been exactly 0 for three steps. Called before the optimiser steps.

        A step is judged at once, or with the next one where losses are read late, but always before anything is saved.
        """
        rows = [r for _, rows in self.step_losses for r in rows if r >= 0]
        losses = Numbers([loss for loss, _ in self.step_losses])
        self.step_losses.clear()
        self.unread.append(StepLosses(self.state.global_step + 1, losses, rows))
        self.judge(leave=1 if self.late else 0)

    def judge(self, leave: int = 0) -> None:
        """Look at the losses of all steps but the last `leave`."""
        while len(self.unread) > leave:
            found = self.unread.pop(0)
            losses, rows = found.losses.read(), found.rows
            if not all(math.isfinite(v) for v in losses):
                values = ", ".join(f"{v:g}" for v in losses)
                after = "No checkpoint holds it" if self.late else "The weights were not updated by it"
                self.stop(
                    found.step,
                    f"the loss is not finite at step {found.step} ({values}); rows of the batch: {rows}. {after}. "
                    "Look at these rows, lower trainer.learning_rate, or use precision=fp32",
                )
            if rows:  # else only fillers
                self.zero_steps = self.zero_steps + 1 if not any(losses) else 0
            if self.zero_steps >= ZERO_LOSS_STEPS:
                self.stop(
                    found.step,
                    f"the loss has been exactly 0 for {ZERO_LOSS_STEPS} steps, up to step {found.step}; rows of the "
                    f"batch: {rows}. Nothing is being learned: these rows leave no token to take loss on, or the "
                    "weights are broken",
                )

    def stop(self, step: int, fault: str) -> NoReturn:
        """Raise UserError for the loss of a step, once the steps before it are logged."""
        self.write_logs(before=step)
        self.unread.clear()
        self.unlogged.clear()
        raise UserError(fault)

    # --- data order

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy == "group_by_length":
            dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            return EpochLengthGroupedSampler(size, dataset.lengths, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def get_train_dataloader(self) -> Any:
        """The rows of this process; one process keeps the Trainer's own loader."""
        if not self.balance and (self.args.world_size == 1 or self.args.train_sampling_strategy == "batch_rebalance"):
            return super().get_train_dataloader()
        sampler: Any = self._get_train_sampler()
        if isinstance(sampler, RandomSampler):  # the order that accelerate gives one process
            sampler = SeedableRandomSampler(self.train_dataset, data_seed=self.args.seed)
        drop, dataset = self.args.dataloader_drop_last, self.train_dataset
        if not self.balance:
            return self._rank_loader(dataset, sampler, self._train_batch_size, drop)
        balanced = {
            "accumulation": self.args.gradient_accumulation_steps,
            "lengths": dataset.lengths,  # type: ignore[union-attr]
            "padded": self.pads,
        }
        return self._rank_loader(dataset, sampler, self._train_batch_size, drop, **balanced)

    def pads(self) -> bool:
        """Whether the rows of a micro-batch are padded to the longest."""
        return isinstance(self.data_collator, Collator) or self.chosen_forward(self.model).way.layout == "padded"

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Every validation row once over all processes."""
        if self.args.world_size == 1:
            return super().get_eval_dataloader(eval_dataset)
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._rank_loader(dataset, SequentialSampler(dataset), self.args.eval_batch_size, False)

    def _rank_loader(self, dataset: Any, sampler: Any, per_device: int, drop_last: bool, **balanced: Any) -> Any:
        place = sampler, per_device, self.args.world_size, self.args.process_index, drop_last
        batches = BalancedBatches(*place, **balanced) if balanced else RankBatches(*place)
        workers = self.args.dataloader_num_workers
        return DataLoaderShard(
            Filled(dataset),
            device=self.accelerator.device,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            _non_blocking=True,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers > 0 else None,
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro-batches of a step. Fillers among them are left out of the mean of the micro-batches."""
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.args.world_size > 1 and self.loss_average == "microbatch":
            real = sum(batch["rows"][0] >= 0 for batch in batches)
            everywhere = devices.agree([real])[0]
            self.microbatch_scale = len(batches) * self.args.world_size / max(1.0, everywhere)
        return batches, tokens

    # --- metrics

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: Any, *positional: Any, learning_rate: Any = None, **keywords: Any
    ) -> None:
        """Logs are read from the device with the next step, or before something is saved or evaluated."""
        if self.control.should_log and self.state.global_step > self._globalstep_last_logged:
            self.note_log(tr_loss, grad_norm, learning_rate)
            self.control.should_log = False
        saves = self.control.should_save or self.control.should_evaluate or self.control.should_training_stop
        self.read(leave=1 if self.late and not saves else 0)
        keywords["learning_rate"] = learning_rate
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *positional, **keywords)

    def note_log(self, tr_loss: torch.Tensor, grad_norm: Any, learning_rate: Any) -> None:
        """Take down what is to be logged of this step, without waiting for it."""
        total = nested_gather(tr_loss.detach().clone(), self.args.parallel_mode).mean()
        tr_loss.zero_()
        step, values, more = self.state.global_step, [total], {}
        if isinstance(grad_norm, torch.Tensor):
            values.append(grad_norm)
        elif grad_norm is not None:
            more["grad_norm"] = grad_norm
        more["learning_rate"] = self._get_learning_rate() if learning_rate is None else learning_rate
        steps = step - self._globalstep_last_logged
        self._globalstep_last_logged = step
        self.unlogged.append(
            StepLog(step, self.state.epoch, steps, Numbers(values), self.all_tokens(), self.seconds, more)
        )

    def read(self, leave: int = 0) -> None:
        """Judge and log all steps but the last `leave`."""
        self.judge(leave)
        self.write_logs(leave)

    def write_logs(self, leave: int = 0, before: float = math.inf) -> None:
        """Log all steps but the last `leave`, as far as they came before step `before`."""
        while len(self.unlogged) > leave and self.unlogged[0].step < before:
            moment = self.unlogged.pop(0)
            total, *norm = moment.values.read()
            self._total_loss_scalar += total
            logs = {"loss": total / moment.steps} | dict(zip(["grad_norm"], norm, strict=False)) | moment.more
            now = self.state.global_step, self.state.epoch
            self.state.global_step, self.state.epoch = moment.step, moment.epoch  # type: ignore[assignment]
            self.moment = moment
            try:
                self.log(logs)
            finally:
                self.moment = None
                self.state.global_step, self.state.epoch = now

    @contextmanager
    def read_after_an_error(self) -> Iterator[None]:
        """A crash costs no line of metrics.jsonl, and a bad loss that led to it is named."""
        try:
            yield
        except BaseException as error:
            try:
                self.read()
            except UserError as found:
                raise found from error
            except Exception:  # the device no longer answers: the error itself says more
                pass
            raise

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Also into metrics.jsonl and the tracker."""
        super().log(logs, start_time)
        if not ("loss" in logs or "eval_loss" in logs):
            return
        tokens = self.moment.tokens if self.moment else self.all_tokens()
        seconds = self.moment.seconds if self.moment else self.seconds
        if not self.is_world_process_zero():
            return
        line: dict[str, Any] = {"step": self.state.global_step}
        line |= {
            k: logs[k] for k in ("loss", "eval_loss", "eval_tokens", "learning_rate", "grad_norm", "epoch") if k in logs
        }
        line |= {"tokens": tokens, "seconds": round(seconds, 3)}
        self.run.append_metrics(line)
        if self.tracker is not None:
            self.tracker.log({k: v for k, v in line.items() if k != "step"}, step=self.state.global_step)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean cross-entropy over all label tokens of the validation set."""
        dataloader = self.get_eval_dataloader(eval_dataset)
        model = self.model_wrapped if self.model_wrapped is not None else self.model
        training = model.training
        model.eval()
        one = torch.ones((), device=self.args.device)
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch in dataloader:
            batch = self._prepare_inputs({k: v for k, v in batch.items() if k != "rows"})
            with torch.no_grad(), self.compute_loss_context_manager():
                losses = self.forward_loss(model, batch, one).losses
            sums[0] += losses.double().sum()
            sums[1] += len(losses)
        model.train(training)
        sums = torch.tensor(devices.agree(sums.tolist()), dtype=torch.float64)
        loss, tokens_seen = (sums[0] / sums[1].clamp(min=1)).item(), int(sums[1].item())
        metrics = {f"{metric_key_prefix}_loss": loss, f"{metric_key_prefix}_tokens": tokens_seen}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """Gradients are summed over the processes after the last micro-batch of a step only."""
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def order(self) -> dict[str, Any]:
        """What decides which rows a step sees: tokenised data, seed, sequences in a step."""
        size = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return {
            "data": getattr(self.train_dataset, "fingerprint", None),
            "seed": self.args.seed,
            "batch.global_size": size,
            "training.balance": self.balance,
        }
