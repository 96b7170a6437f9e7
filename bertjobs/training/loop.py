"""The loop that all kinds of training share: what happens around the step. All ranks run it; rank 0 writes
and reports.

What is trained and how it is judged is an `Objective`. The global batch, its order and its dropout masks are
functions of (seed, step, row). So the losses do not depend on how many ranks there are or how a batch is
split, and a resumed run is the undisturbed one.

The step on one screen: gradients of the mean loss over the global batch, then AdamW.

Legend: K parts of the loss.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bertjobs.config.finetune import TrainSection
from bertjobs.config.pretrain import PretrainTrainSection
from bertjobs.config.sections import OptimSection
from bertjobs.modeling.dropout import DropoutPool
from bertjobs.modeling.heads import BertForPreTraining, BertForSequenceClassification
from bertjobs.storage import JobDir
from bertjobs.training.checkpoint import Checkpoint, publish, recall
from bertjobs.training.distributed import Ranks, current_ranks
from bertjobs.training.flat_adamw import CLOCK, LOSSES, STOP, FlatAdamW
from bertjobs.training.memory import memory_errors
from bertjobs.training.metrics_log import Line, Record
from bertjobs.training.objective import AnyStepBatch, Objective
from bertjobs.training.precision import training_dtype
from bertjobs.training.progress import EpochResult, Hooks, Meter, Stopwatch
from bertjobs.training.run_state import Position, checkpoint_name

logger = logging.getLogger(__name__)


class Loop:
    """One attempt at a run on one rank: `begin`, `take_steps`, then `close`."""

    def __init__(
        self,
        model: BertForSequenceClassification | BertForPreTraining,
        *,
        objective: Objective,
        optimizer: FlatAdamW,
        optim: OptimSection,
        train: TrainSection | PretrainTrainSection,
        job_dir: JobDir,
        hooks: Hooks,
        clock: Callable[[], float],
    ) -> None:
        self._model, self._objective, self._optimizer = model, objective, optimizer
        self._optim, self._train = optim, train
        self._job_dir, self._hooks = job_dir, hooks
        self._ranks = current_ranks()
        self._device = next(model.parameters()).device
        self._dtype = training_dtype(train.precision, self._device)
        self._meter = Meter(objective, device=self._device, clock=clock)
        self._stopwatch = Stopwatch(clock)
        self._record: Record | None = None
        self._wish: str | None = None
        self.position = Position()
        self.stopped: str | None = None
        """What `Hooks.should_stop` said, where that ended the run."""

    @property
    def lines(self) -> list[Line] | None:
        """The series behind the curves, on rank 0."""
        return self._record.lines if self._record else None

    @property
    def is_spent(self) -> bool:
        """Whether the run came to the end of its budget."""
        return self._objective.budget.is_spent(self.position.spent)

    def begin(self, resume: str | None) -> None:
        """Start from the model as given, or take up a checkpoint."""
        if resume is None:
            self._optimizer.copy_weights_from_first(self._model, self._ranks)
        else:
            self._take_up(resume)
        num_done, num_steps = self.position.num_done, self._objective.budget.total_steps(self.position.spent)
        if self._ranks.is_first:
            self._record = Record(self._job_dir, num_done=num_done, num_steps=num_steps)
        trained = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        logger.info(
            "rank %d of %d: steps %d to %d, %s on %s, %.1f M parameters trained",
            self._ranks.rank, self._ranks.world_size, num_done, num_steps,
            str(self._dtype).removeprefix("torch."), self._device, trained / 1e6,
        )  # fmt: skip

    def take_steps(self) -> None:
        """Step until the budget is spent, patience is out, or someone asks to stop."""
        self._model.train()
        self._go_on()
        pool = -1
        while not self._is_over():
            step = self.position.num_done
            if pool != (pool := self._objective.mask_pool_of(step)):
                self._renew_dropout(pool)
            self._step(step)
            self._after_step()

    def recall(self, step: int) -> None:
        """Put the weights of an earlier checkpoint into the model, on all ranks."""
        if self._ranks.is_first:
            self._optimizer.load_weights(self._model, recall(self._job_dir, checkpoint_name(step)).model)
        self._optimizer.copy_weights_from_first(self._model, self._ranks)

    def close(self) -> None:
        self._model.set_dropout(None)
        if self._record:
            self._record.close()

    def _is_over(self) -> bool:
        out_of_patience = self._objective.is_out_of_patience(self.position)
        return self.is_spent or self.stopped is not None or out_of_patience

    def _go_on(self) -> None:
        """Begin to measure time, after what does not count as training."""
        self._meter.skip_pause()
        if self._times:
            self._stopwatch.go_on(self.position.train_s)

    @property
    def _times(self) -> bool:
        """Whether this rank's clock decides when the run ends."""
        return self._objective.budget.train_s is not None and self._ranks.is_first

    def _renew_dropout(self, pool: int) -> None:
        seed = self._train.seed
        self._model.set_dropout(DropoutPool(self._model.config, seed=seed, epoch=pool, device=self._device))

    def _step(self, step: int) -> None:
        batch, before = self._objective.step_batch(step), self.position
        lr = self._objective.budget.lr(before.spent, batch_tokens=batch.num_tokens, optim=self._optim)
        with memory_errors(self._train):
            grad_norm = train_step(
                batch,
                losses=self._objective.losses,
                optimizer=self._optimizer,
                ranks=self._ranks,
                dtype=self._dtype,
                lr=lr,
                wants_stop=self._wish is not None,
                elapsed_s=self._stopwatch.elapsed_s if self._times else lambda: 0.0,
            )
        self.position = replace(before, num_done=step + 1, num_tokens=before.num_tokens + batch.num_tokens)
        self._meter.add(self.position, lr=lr, batch=batch, riders=self._optimizer.riders, grad_norm=grad_norm)

    def _after_step(self) -> None:
        """Report, evaluate and write a checkpoint where it is time to; every rank decides alike."""
        num_done, checkpoint_steps = self.position.num_done, self._train.checkpoint_steps
        is_marked = checkpoint_steps is not None and num_done % checkpoint_steps == 0
        if self._is_judged() or is_marked or self._meter.is_due():
            self._report()  # may learn that time is up
        is_judged = self._is_judged()
        if is_judged:
            self._evaluate()
        if is_judged or is_marked or self.stopped:
            self._checkpoint()
            self._go_on()

    def _is_judged(self) -> bool:
        return self.is_spent or self._objective.is_milestone(self.position.num_done)

    def _report(self) -> None:
        read = self._meter.read()
        self.position = replace(self.position, train_s=self._meter.train_s)
        if self._meter.stop_is_agreed and not self.is_spent:
            self.stopped = self._wish or "rank 0 asked to stop"
        if self._record:
            for progress in read:
                self._record.add_step(progress)
            self._hooks.on_progress(read[-1])
            self._wish = self._wish or self._hooks.should_stop()

    def _evaluate(self) -> None:
        metrics = self._objective.evaluate()
        self.position = self.position.after_evaluation(metrics, value=self._objective.value_of(metrics))
        if self._record:
            result = EpochResult(
                epoch=self._objective.epoch_of(self.position.num_done - 1),
                step=self.position.num_done,
                metrics=metrics,
                is_best=self.position.num_worse == 0,
            )
            self._record.add_epoch(result)
            self._hooks.on_epoch(result)

    def _checkpoint(self) -> None:
        if self._record:
            self._record.save()
            publish(
                self._job_dir,
                Checkpoint(
                    model=self._model.state_dict(),
                    optimizer=self._optimizer.state(),
                    state=self.position.to_json(self._objective.identity()),
                ),
                num_done=self.position.num_done,
                best_step=self._objective.kept_step(self.position),
                hooks=self._hooks,
            )

    def _take_up(self, name: str) -> None:
        checkpoint = recall(self._job_dir, name)
        self.position = Position.from_json(
            checkpoint.state, identity=self._objective.identity(), read_scores=self._objective.read_scores
        )
        self._optimizer.load_weights(self._model, checkpoint.model)
        self._optimizer.load_state(checkpoint.optimizer, num_steps_done=self.position.num_done)


@contextmanager
def determinism(is_wanted: bool) -> Iterator[None]:
    """Allow only deterministic kernels, where that is wanted or was so before."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(is_wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def train_step(
    batch: AnyStepBatch,
    *,
    losses: Callable[[Any, Any], Tensor],
    optimizer: FlatAdamW,
    ranks: Ranks,
    dtype: torch.dtype,
    lr: float,
    wants_stop: bool = False,
    elapsed_s: Callable[[], float] = lambda: 0.0,
) -> Tensor:
    """Take one optimizer step; return the global gradient norm, a tensor of one number.

    losses: gives a microbatch's shares (K) of the parts of the global batch's mean loss. So gradients add up
        over microbatches and ranks to the gradient of the mean, whatever their sizes.
    elapsed_s: what this rank adds to the clock that all ranks read.
    """
    optimizer.clear()
    riders = optimizer.riders
    device_type = riders.device.type
    with torch.autocast(device_type, dtype=dtype, enabled=dtype != torch.float32):  # casts each weight once
        for microbatch in batch.microbatches:
            losses_K = losses(microbatch, batch)
            riders[LOSSES : LOSSES + len(losses_K)] += losses_K.detach()
            with torch.autocast(device_type, enabled=False):
                losses_K.sum().backward()
    riders[STOP], riders[CLOCK] = float(wants_stop), elapsed_s()
    grad_norm = optimizer.gather(ranks, token_ids_T=batch.token_ids_T)
    optimizer.step(lr=lr, grad_norm=grad_norm)
    return grad_norm
