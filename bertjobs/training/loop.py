"""Fine-tune a classifier: what happens around the step. All ranks run this; rank 0 writes and reports.

The global batch, its order and its dropout masks are functions of (seed, step, row). So the losses do not
depend on how many ranks there are or how a batch is split, and a resumed run is the undisturbed one.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from bertjobs.config.schema import FinetuneConfig
from bertjobs.errors import OutOfMemory
from bertjobs.modeling.dropout import DropoutPool
from bertjobs.modeling.heads import BertForSequenceClassification
from bertjobs.storage import JobDir
from bertjobs.text.encoding import EncodedTable
from bertjobs.training.checkpoint import Checkpoint
from bertjobs.training.evaluate import evaluate
from bertjobs.training.feed import Feed, SpecialIds
from bertjobs.training.keeper import publish, recall
from bertjobs.training.meter import Meter
from bertjobs.training.optim import build_optimizer
from bertjobs.training.plan import make_plan
from bertjobs.training.position import Position, checkpoint_name
from bertjobs.training.precision import resolve_precision
from bertjobs.training.progress import EpochResult, FinetuneResult, Hooks
from bertjobs.training.ranks import current_ranks
from bertjobs.training.record import Record
from bertjobs.training.schedule import check_schedule, lr_at
from bertjobs.training.step import train_step

logger = logging.getLogger(__name__)


def finetune(
    model: BertForSequenceClassification,
    *,
    config: FinetuneConfig,
    train: EncodedTable,
    valid: EncodedTable,
    labels: Sequence[str],
    specials: SpecialIds,
    metric: str,
    job_dir: JobDir,
    hooks: Hooks,
    resume: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FinetuneResult:
    """Train a model, already on its device, on `train`; leave it with the weights that were best on `valid`.

    metric: what is best: `accuracy`, `mcc` or `f1`. resume: the name of a published checkpoint of `job_dir`.
    Writes `checkpoints/`, `metrics.jsonl`, `tensorboard/` and `plots/`; the caller writes `model/`.

    Raises:
        ConfigError: more layers to freeze than there are; a schedule longer than the run; no bf16 here.
        ModelError: the checkpoint is damaged, or belongs to another run.
        TrainingError: the loss is not finite. OutOfMemory: with what to change.
        StorageError: an artefact cannot be written. LeaseLost: from the hooks.
    """
    check_schedule(config.optim)
    judge = Judge(valid=valid, labels=tuple(labels), metric=metric, specials=specials)
    with _determinism(config.train.deterministic):
        run = _Run(model, config=config, train=train, judge=judge, job_dir=job_dir, hooks=hooks, clock=clock)
        run.begin(resume)
        try:
            run.take_steps()
            return run.finish()
        finally:
            run.close()


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What the weights are judged by after each epoch."""

    valid: EncodedTable
    labels: tuple[str, ...]
    metric: str
    specials: SpecialIds


class _Run:
    """One attempt at a run on one rank."""

    def __init__(
        self,
        model: BertForSequenceClassification,
        *,
        config: FinetuneConfig,
        train: EncodedTable,
        judge: Judge,
        job_dir: JobDir,
        hooks: Hooks,
        clock: Callable[[], float],
    ) -> None:
        self._model, self._config, self._judge = model, config, judge
        self._job_dir, self._hooks = job_dir, hooks
        self._ranks = current_ranks()
        self._device = next(model.parameters()).device
        self._dtype = resolve_precision(config.train.precision, self._device)
        self._plan = make_plan(train.num_rows, train=config.train)
        self._feed = Feed(
            train,
            text=config.text,
            specials=judge.specials,
            max_tokens=config.train.microbatch_tokens,
            ranks=self._ranks,
            device=self._device,
            vocab_size=model.config.vocab_size,
        )
        self._optimizer = build_optimizer(
            model,
            num_layers=model.config.num_hidden_layers,
            word_table=model.bert.embeddings.word_embeddings,
            token_ids_U=self._feed.token_ids(),
            optim=config.optim,
        )
        model.bert.write_gradients()  # straight into the optimizer's buffers
        self._meter = Meter(self._plan, device=self._device, clock=clock)
        self._position = Position()
        self._record: Record | None = None
        self._wish: str | None = None
        self._stopped: str | None = None

    def begin(self, resume: str | None) -> None:
        """Start from the model as given, or take up a checkpoint."""
        if resume is None:
            self._optimizer.copy_weights_from_first(self._model, self._ranks)
        else:
            self._take_up(resume)
        if self._ranks.is_first:
            num_done, num_steps = self._position.num_done, self._plan.num_steps
            self._record = Record(self._job_dir, num_done=num_done, num_steps=num_steps)
        trained = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        logger.info(
            "rank %d of %d: steps %d to %d, %s on %s, %.1f M parameters trained",
            self._ranks.rank, self._ranks.world_size, self._position.num_done, self._plan.num_steps,
            str(self._dtype).removeprefix("torch."), self._device, trained / 1e6,
        )  # fmt: skip

    def take_steps(self) -> None:
        """Step until the plan is done, patience is out, or someone asks to stop."""
        self._model.train()
        self._meter.skip_pause()
        pool_epoch = -1
        while not self._is_over():
            step = self._position.num_done
            if pool_epoch != (pool_epoch := self._plan.epoch_of(step)):
                self._renew_dropout(pool_epoch)
            self._step(step)
            self._position = replace(self._position, num_done=step + 1)
            self._after_step()

    def finish(self) -> FinetuneResult:
        """Put the best weights into the model and draw the curves."""
        best, plots = self._position.best, tuple[str, ...]()
        if self._stopped is None and best:
            if best.step != self._position.num_done:
                self._recall_best(best.step)
            if self._record:
                from bertjobs.training.plots import (
                    save_plots,
                )  # matplotlib: paid at the end, not at the start

                plots = save_plots(self._job_dir, self._record.lines, best.metrics, metric=self._judge.metric)
        is_early = self._position.num_done < self._plan.num_steps and self._stopped is None
        return FinetuneResult(
            num_steps=self._position.num_done,
            metrics=best.metrics if best else None,
            best_step=best.step if best else 0,
            stopped="early stopping" if is_early else self._stopped,
            plots=plots,
        )

    def close(self) -> None:
        self._model.set_dropout(None)
        if self._record:
            self._record.close()

    def _is_over(self) -> bool:
        is_done = self._position.num_done == self._plan.num_steps
        return is_done or self._stopped is not None or self._position.is_out_of_patience(self._config.train)

    def _renew_dropout(self, epoch: int) -> None:
        seed = self._config.train.seed
        self._model.set_dropout(DropoutPool(self._model.config, seed=seed, epoch=epoch, device=self._device))

    def _step(self, step: int) -> None:
        train = self._config.train
        lr = lr_at(step, num_steps=self._plan.num_steps, optim=self._config.optim)
        rows = self._plan.rows_of(step)
        batch = self._feed.step_batch(rows, seed=train.seed, step=step, at_least=train.accumulation)
        with _memory_errors(train.microbatch_tokens):
            grad_norm = train_step(
                self._model,
                batch,
                optimizer=self._optimizer,
                ranks=self._ranks,
                dtype=self._dtype,
                lr=lr,
                wants_stop=self._wish is not None,
            )
        self._meter.add(step, lr=lr, batch=batch, riders=self._optimizer.riders, grad_norm=grad_norm)

    def _after_step(self) -> None:
        """Report, evaluate and write a checkpoint where it is time to; every rank decides alike."""
        num_done, checkpoint_steps = self._position.num_done, self._config.train.checkpoint_steps
        ends_epoch = self._plan.ends_epoch(num_done)
        is_marked = checkpoint_steps is not None and num_done % checkpoint_steps == 0
        if ends_epoch or is_marked or self._meter.is_due():
            self._report()
        if ends_epoch:
            self._evaluate()
        if ends_epoch or is_marked or self._stopped:
            self._checkpoint()
            self._meter.skip_pause()

    def _report(self) -> None:
        read = self._meter.read()
        if self._meter.stop_is_agreed and self._position.num_done < self._plan.num_steps:
            self._stopped = self._wish or "rank 0 asked to stop"
        if self._record:
            for progress in read:
                self._record.add_step(progress)
            self._hooks.on_progress(read[-1])
            self._wish = self._wish or self._hooks.should_stop()

    def _evaluate(self) -> None:
        metrics = evaluate(
            self._model,
            self._judge.valid,
            labels=self._judge.labels,
            text=self._config.text,
            specials=self._judge.specials,
            batch_size=self._config.train.eval_batch_size,
            precision=self._config.train.precision,
            microbatch_tokens=self._config.train.microbatch_tokens,
        )
        self._position = self._position.after_evaluation(metrics, metric=self._judge.metric)
        if self._record:
            result = EpochResult(
                epoch=self._plan.epoch_of(self._position.num_done - 1),
                step=self._position.num_done,
                metrics=metrics,
                is_best=self._position.num_worse == 0,
            )
            self._record.add_epoch(result)
            self._hooks.on_epoch(result)

    def _checkpoint(self) -> None:
        if self._record:
            self._record.save()
            best = self._position.best
            publish(
                self._job_dir,
                Checkpoint(
                    model=self._model.state_dict(),
                    optimizer=self._optimizer.state(),
                    state=self._position.to_json(self._plan),
                ),
                num_done=self._position.num_done,
                best_step=best.step if best else None,
                hooks=self._hooks,
            )

    def _take_up(self, name: str) -> None:
        checkpoint = recall(self._job_dir, name)
        self._position = Position.from_json(checkpoint.state, plan=self._plan)
        self._optimizer.load_weights(self._model, checkpoint.model)
        self._optimizer.load_state(checkpoint.optimizer, num_steps_done=self._position.num_done)

    def _recall_best(self, step: int) -> None:
        if self._ranks.is_first:
            best = recall(self._job_dir, checkpoint_name(step))
            self._optimizer.load_weights(self._model, best.model)
        self._optimizer.copy_weights_from_first(self._model, self._ranks)


@contextmanager
def _memory_errors(microbatch_tokens: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as e:  # torch.OutOfMemoryError is one; on a CPU the allocator has no type of its own
        if isinstance(e, torch.OutOfMemoryError) or "can't allocate memory" in str(e):
            raise OutOfMemory(
                f"The step does not fit into memory with {microbatch_tokens} tokens at once on a worker.",
                hint="Make it smaller with --set train.microbatch_tokens=N; the result stays the same.",
            ) from e
        raise


@contextmanager
def _determinism(is_wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(is_wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
