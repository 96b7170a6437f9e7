"""Run the training loop that fine-tuning and pretraining share.

All ranks run it; rank 0 alone writes artefacts and reports. What differs between the kinds of training (the
batches, the loss, the evaluation) is an `Objective`. The loop must not know Ray, Redis or the command line:
it reports through `Hooks`.

The global batch and its order are functions of (seed, step, row), and so are dropout masks on a CPU: there
the losses do not depend on the number of ranks or of microbatches. Elsewhere masks follow from (seed, step,
rank). A resumed run continues bit for bit either way.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count

import numpy as np
import torch

from bertjobs.config.finetune import TrainSection
from bertjobs.config.pretrain import PretrainTrainSection
from bertjobs.config.sections import OptimSection
from bertjobs.errors import StorageError
from bertjobs.modeling.cpu import DropoutPool, set_dropout, state_of
from bertjobs.modeling.heads import BertForPreTraining, BertForSequenceClassification
from bertjobs.modeling.span_head import BertForQuestionAnswering
from bertjobs.storage import JobDir
from bertjobs.training.adamw import StepOptimizer
from bertjobs.training.checkpoints.checkpoint import (
    Checkpoint,
    find_checkpoint,
    read_checkpoint_or_earlier,
    read_published_checkpoint,
)
from bertjobs.training.checkpoints.checkpoint_writer import CheckpointWriter
from bertjobs.training.checkpoints.run_state import RunState
from bertjobs.training.device_feed import on_device
from bertjobs.training.distributed import current_ranks
from bertjobs.training.gradient_exchange import DataParallel, make_exchange
from bertjobs.training.memory import memory_errors
from bertjobs.training.monitoring import activity
from bertjobs.training.monitoring.metrics_file import MetricsLine
from bertjobs.training.monitoring.metrics_log import MetricsLog
from bertjobs.training.monitoring.profiling import StepProfiler
from bertjobs.training.monitoring.progress import EpochResult, Hooks, ProgressMeter, Stopwatch
from bertjobs.training.objective import AnyStepBatch, Objective
from bertjobs.training.precision import training_dtype
from bertjobs.training.step import StepTaker

logger = logging.getLogger(__name__)


class TrainLoop:
    """One attempt at a run on one rank: `begin`, `train`, then `close`."""

    def __init__(
        self,
        model: BertForSequenceClassification | BertForQuestionAnswering | BertForPreTraining,
        *,
        objective: Objective,
        optimizer: StepOptimizer,
        optim: OptimSection,
        train: TrainSection | PretrainTrainSection,
        job_dir: JobDir,
        hooks: Hooks,
        clock: Callable[[], float],
        data_parallel: DataParallel | None = None,
        writes_behind: bool = False,
    ) -> None:
        """Build it after the optimizer, which freezes parameters.

        data_parallel: as `make_exchange`. writes_behind: whether training continues while a checkpoint is
        written.
        """
        self._model, self._objective, self._optimizer = model, objective, optimizer
        self._optim, self._train = optim, train
        self._job_dir, self._hooks = job_dir, hooks
        self._ranks = current_ranks()
        self._exchange = make_exchange(
            model, by=train.grad_exchange, ranks=self._ranks, data_parallel=data_parallel
        )
        self._device = next(model.parameters()).device
        self._dtype = training_dtype(train.precision, self._device)
        self._step_taker = StepTaker(objective.losses, is_compiled=train.compile)
        self._meter = ProgressMeter(
            objective, device=self._device, clock=clock, may_overflow=optimizer.loss_scale is not None
        )
        self._stopwatch = Stopwatch(clock)
        self._profiler: StepProfiler | None = None
        if train.profile is not None and self._ranks.is_first:
            self._profiler = StepProfiler(
                train.profile, config=model.config, job_dir=job_dir, device=self._device, dtype=self._dtype
            )
        self._metrics_log: MetricsLog | None = None
        self._writes_behind = writes_behind
        self._checkpoints: CheckpointWriter | None = None
        # This rank's own request. It ends the run only after it was summed over the ranks.
        self._stop_request: str | None = None
        self.state = RunState()
        self.stopped: str | None = None
        """The reason that `Hooks.should_stop` gave, where that ended the run."""

    @property
    def lines(self) -> list[MetricsLine] | None:
        """The metrics of all steps and evaluations so far; on rank 0 only."""
        return self._metrics_log.lines if self._metrics_log else None

    @property
    def is_finished(self) -> bool:
        """Whether the run has used its whole budget."""
        return self._objective.budget.is_used_up(self.state.totals)

    def begin(self, resume: str | None) -> None:
        """Start from the model as given, or from a published checkpoint.

        Raises: ModelError: the checkpoint is damaged, or belongs to another run. StorageError: it is missing.
        """
        if resume is None:
            self._optimizer.broadcast_weights(self._model, self._ranks)
        else:
            self._resume(resume)
        num_done, num_steps = self.state.num_done, self._objective.budget.total_steps(self.state.totals)
        if self._ranks.is_first:
            self._metrics_log = MetricsLog(self._job_dir, num_done=num_done, num_steps=num_steps)
            self._checkpoints = CheckpointWriter(
                self._job_dir, hooks=self._hooks, is_behind=self._writes_behind, previous=resume
            )
        trained = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        logger.info(
            "rank %d of %d: steps %d to %d, %s on %s, %.1f M parameters trained",
            self._ranks.rank, self._ranks.world_size, num_done, num_steps,
            str(self._dtype).removeprefix("torch."), self._device, trained / 1e6,
        )  # fmt: skip

    def train(self) -> None:
        """Take steps until the budget is used, early stopping ends the run, or a hook requests a stop."""
        try:
            self._take_steps()
        except StorageError:
            # A disk that the thread of the checkpoint has filled fails whoever writes next: then its error
            # is the one that says so.
            if self._checkpoints:
                self._checkpoints.finish()
            raise
        if self._checkpoints:
            self._checkpoints.finish()
        if self._profiler:
            self._profiler.finish()

    def _take_steps(self) -> None:
        self._model.train()
        self._restart_timers()
        pool = -1
        # Batches of steps past the end may be made, and are dropped: where a run ends is not always known.
        made = (self._objective.step_batch(step) for step in count(self.state.num_done))
        with closing(on_device(made, self._device)) as batches:
            while not self._should_end():
                step = self.state.num_done
                seed_dropout(self._train.seed, step=step, rank=self._ranks.rank)
                # Drawing a pool of masks takes some 50 ms, so many steps share one: `Objective.mask_pool_of`.
                if pool != (pool := self._objective.mask_pool_of(step)):
                    self._draw_dropout_masks(pool)
                if self._profiler:
                    self._profiler.before_step()
                batch = next(batches)
                self._step(step, batch)
                if self._profiler and self._profiler.after_step(batch):
                    self._restart_timers()
                self._after_step()

    def load_checkpoint_weights(self, step: int) -> None:
        """Put the weights of an earlier checkpoint into the model, on all ranks."""
        if self._ranks.is_first:
            # Only rank 0 reads storage; the others get the weights by the broadcast below.
            checkpoint = read_published_checkpoint(self._job_dir, find_checkpoint(self._job_dir, step))
            self._optimizer.load_weights(self._model, checkpoint.model)
        self._optimizer.broadcast_weights(self._model, self._ranks)

    def close(self) -> None:
        """Release the dropout masks and the metrics log; end profiling and the thread of the checkpoints."""
        if state_of(self._model) is not None:
            set_dropout(self._model, None)
        if self._profiler:
            self._profiler.close()
        if self._checkpoints:
            self._checkpoints.close()
        if self._metrics_log:
            self._metrics_log.close()

    def _should_end(self) -> bool:
        out_of_patience = self._objective.is_out_of_patience(self.state)
        return self.is_finished or self.stopped is not None or out_of_patience

    def _restart_timers(self) -> None:
        """Leave what came before (start-up, evaluation, checkpoint) out of the measured training time."""
        self._meter.skip_pause()
        if self._is_timekeeper:
            self._stopwatch.start(self.state.train_s)

    @property
    def _is_timekeeper(self) -> bool:
        """Whether this rank's clock decides when the run ends: rank 0's, where the budget is a time."""
        return self._objective.budget.train_s is not None and self._ranks.is_first

    def _draw_dropout_masks(self, pool: int) -> None:
        if state_of(self._model) is None:
            return  # the plain model's masks are torch's
        seed = self._train.seed
        set_dropout(self._model, DropoutPool(self._model.config, seed=seed, epoch=pool, device=self._device))

    def _step(self, step: int, batch: AnyStepBatch) -> None:
        before = self.state
        batch.sum_counts(self._ranks)
        # From the totals and the tokens of the global batch, so it is the same on all ranks.
        lr = self._objective.budget.lr(before.totals, batch_tokens=batch.num_tokens, optim=self._optim)
        with memory_errors(self._train):
            grad_norm = self._step_taker.step(
                batch,
                exchange=self._exchange,
                optimizer=self._optimizer,
                ranks=self._ranks,
                dtype=self._dtype,
                lr=lr,
                requests_stop=self._stop_request is not None,
                # One rank contributes and the others add 0, so the sum over the ranks is that rank's clock.
                elapsed_s=self._stopwatch.elapsed_s if self._is_timekeeper else lambda: 0.0,
            )
        self.state = replace(before, num_done=step + 1, num_tokens=before.num_tokens + batch.num_tokens)
        self._meter.add(self.state, lr=lr, batch=batch, scalars=self._optimizer.scalars, grad_norm=grad_norm)

    def _after_step(self) -> None:
        """Report, evaluate and write a checkpoint where they are due.

        Every rank takes the same branches, since evaluation is a collective operation: they depend on the
        step number and on numbers that were summed over the ranks, never on a rank's own clock.
        """
        activity.note()
        if self._checkpoints:
            self._checkpoints.poll()
        num_done, checkpoint_steps = self.state.num_done, self._train.checkpoint_steps
        is_checkpoint_due = checkpoint_steps is not None and num_done % checkpoint_steps == 0
        if self._is_evaluation_due() or is_checkpoint_due or self._meter.is_due():
            self._report()  # reads the shared clock, so a budget by time may be used up from here on
        is_evaluation_due = self._is_evaluation_due()
        if is_evaluation_due:
            self._evaluate()
        # A stopped run leaves a checkpoint too, so that the next attempt repeats no step.
        if is_evaluation_due or is_checkpoint_due or self.stopped:
            self._checkpoint()
            self._restart_timers()

    def _is_evaluation_due(self) -> bool:
        return self.is_finished or self._objective.is_evaluation_step(self.state.num_done)

    def _report(self) -> None:
        """Read the steps since the last report from the device, and report the newest through the hooks."""
        progress = self._meter.read()
        self.state = replace(self.state, train_s=self._meter.train_s)
        # A stop request takes effect one step late, on all ranks at once: it is summed with the gradients.
        if self._meter.is_stop_requested and not self.is_finished:
            self.stopped = self._stop_request or "rank 0 asked to stop"
        if self._metrics_log:
            for step in progress:
                self._metrics_log.add_step(step)
            self._hooks.on_progress(progress[-1])
            self._stop_request = self._stop_request or self._hooks.should_stop()

    def _evaluate(self) -> None:
        # Collective: all ranks get the same metrics, and with them the same early stopping.
        metrics = self._objective.evaluate()
        self.state = self.state.after_evaluation(metrics, value=self._objective.value_of(metrics))
        if self._metrics_log:
            result = EpochResult(
                epoch=self._objective.epoch_of(self.state.num_done - 1),
                step=self.state.num_done,
                metrics=metrics,
                is_best=self.state.num_worse == 0,
            )
            self._metrics_log.add_epoch(result)
            self._hooks.on_epoch(result)

    def _checkpoint(self) -> None:
        """Save the metrics log and write a checkpoint, on rank 0."""
        activity.note()
        if self._metrics_log and self._checkpoints:
            self._checkpoints.finish()  # the one before
            self._hooks.before_checkpoint()
            # First the log: a run that resumes from this checkpoint finds the lines up to its step.
            self._metrics_log.save()
            self._checkpoints.write(
                Checkpoint(
                    model=self._model.state_dict(),
                    optimizer=self._optimizer.state(),
                    state=self.state.to_json(self._objective.identity()),
                ),
                num_done=self.state.num_done,
                best_step=self._objective.step_to_keep(self.state),
            )

    def _resume(self, name: str) -> None:
        """Load weights, moments and counters. Every rank reads the checkpoint, so nothing is broadcast."""
        checkpoint = read_checkpoint_or_earlier(self._job_dir, name)
        self.state = RunState.from_json(
            checkpoint.state,
            identity=self._objective.identity(),
            scores_from_json=self._objective.scores_from_json,
        )
        self._optimizer.load_weights(self._model, checkpoint.model)
        self._optimizer.load_state(checkpoint.optimizer, num_steps_done=self.state.num_done)


def seed_dropout(seed: int, *, step: int, rank: int) -> None:
    """Make the masks that torch draws in a step a function of (seed, step, rank)."""
    mixed = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(mixed[0]))


@contextmanager
def determinism(is_wanted: bool) -> Iterator[None]:
    """Allow only deterministic kernels inside the block, where that is wanted or was already so."""
    before = torch.are_deterministic_algorithms_enabled()
    if is_wanted:
        # cuBLAS reads it before its first product: without it, streams share a workspace in an order that
        # differs from run to run, and torch refuses products in deterministic mode.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(is_wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
