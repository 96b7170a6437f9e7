"""Fine-tune a model of a task: the shared loop over rows with labels, and the best weights at its end."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bertjobs.config.finetune import FinetuneConfig
from bertjobs.modeling.cpu import accelerate, state_of, write_gradients
from bertjobs.modeling.param_groups import num_trained
from bertjobs.storage import JobDir
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.ragged import Int64s
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.training.adamw import make_optimizer
from bertjobs.training.batches import BatchLoader, Microbatch, StepBatch, make_batch_sampler
from bertjobs.training.checkpoints.run_state import RunState
from bertjobs.training.distributed import current_ranks
from bertjobs.training.evaluate import evaluate
from bertjobs.training.gradient_exchange import DataParallel, uses_ddp
from bertjobs.training.loop import TrainLoop, determinism
from bertjobs.training.memory import MemoryNeed, check_memory, estimate_training, has_room_for_copy
from bertjobs.training.monitoring.progress import FinetuneResult, Hooks
from bertjobs.training.precision import fp32_products, training_dtype
from bertjobs.training.schedule import Budget, check_schedule
from bertjobs.training.tasks.task_type import TaskMetrics, TaskModel, TaskType


def finetune(
    model: TaskModel,
    *,
    config: FinetuneConfig,
    train: EncodedTable,
    valid: EncodedTable,
    task: TaskType[Any],
    tokenizer: Tokenizer,
    metric: str,
    job_dir: JobDir,
    hooks: Hooks,
    resume: str | None = None,
    data_parallel: DataParallel | None = None,
    draws: bool = True,
    writes_behind: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> FinetuneResult:
    """Train a model, already on its device, on `train`; leave it with the best weights or the last.

    metric: decides which weights are best: one of the task's, or `loss`. resume: the name of a
    published checkpoint of `job_dir`. data_parallel: as `make_exchange`. draws: whether to plot the curves at
    the end; a search plots its own.
    writes_behind: whether training continues while a checkpoint is written, if the host has the memory.
    Writes `checkpoints/`, `metrics.jsonl`, `tensorboard/` and `plots/`; the caller writes `model/`.

    Raises:
        ConfigError: more layers to freeze than the model has; a schedule longer than the run; no bf16 here.
        ModelError: the checkpoint is damaged, or belongs to another run.
        TrainingError: the loss is not finite. OutOfMemory: with what to change.
        StorageError: an artefact cannot be written. LeaseLost: from the hooks.
    """
    check_schedule(config.optim)
    validation = Validation(valid=valid, task=task, metric=metric, tokenizer=tokenizer)
    with determinism(config.train.deterministic), fp32_products(config.train.precision):
        model.bert.encoder.recomputes = config.train.activation_checkpointing
        accelerate(model)
        objective = _TaskObjective(model, config=config, train=train, validation=validation)
        device = next(model.parameters()).device
        need = memory_need(model, config=config, lengths=objective.loader.lengths)
        check_memory(model, need)
        has_ddp = uses_ddp(config.train.grad_exchange, ranks=current_ranks(), device=device)
        optimizer = make_optimizer(
            model,
            uses_ddp=has_ddp,
            num_layers=model.config.num_hidden_layers,
            dtype=training_dtype(config.train.precision, device),
            word_table=model.bert.embeddings.word_embeddings,
            token_ids_U=objective.loader.token_ids(),
            optim=config.optim,
        )
        if state_of(model) is not None and not has_ddp:
            write_gradients(model)  # straight into the optimizer's buffers
        loop = TrainLoop(
            model,
            objective=objective,
            optimizer=optimizer,
            optim=config.optim,
            train=config.train,
            job_dir=job_dir,
            hooks=hooks,
            clock=clock,
            data_parallel=data_parallel,
            writes_behind=writes_behind and has_room_for_copy(model, need),
        )
        loop.begin(resume)
        try:
            loop.train()
            keeps_best = config.train.keep_weights == "best"
            return _finish(loop, validation=validation, job_dir=job_dir, draws=draws, keeps_best=keeps_best)
        finally:
            loop.close()


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The development split, and what is needed to evaluate the weights on it."""

    valid: EncodedTable
    task: TaskType[Any]
    metric: str
    tokenizer: Tokenizer


class _TaskObjective:
    """The loss that the task's type defines, and its metrics after each epoch."""

    loss_names: tuple[str, ...] = ("loss",)

    def __init__(
        self,
        model: TaskModel,
        *,
        config: FinetuneConfig,
        train: EncodedTable,
        validation: Validation,
    ) -> None:
        self._model, self._config, self._validation = model, config, validation
        self._task, self._train = validation.task, train
        self._sampler = make_batch_sampler(train.num_rows, train=config.train)
        self.budget = Budget(num_steps=self._sampler.num_steps)
        self.loader = BatchLoader(
            train,
            text=config.text,
            tokenizer=validation.tokenizer,
            max_tokens=config.train.microbatch_tokens,
            ranks=current_ranks(),
            vocab_size=model.config.vocab_size,
            targets=validation.task.targets,
        )

    def identity(self) -> Mapping[str, Any]:
        return asdict(self._sampler)

    def epoch_of(self, step: int) -> int:
        return self._sampler.epoch_of(step)

    def mask_pool_of(self, step: int) -> int:
        return self._sampler.epoch_of(step)

    def step_batch(self, step: int) -> StepBatch:
        train = self._config.train
        rows = self._sampler.rows_of(step)
        return self.loader.step_batch(rows, seed=train.seed, step=step, min_microbatches=train.accumulation)

    def losses(self, microbatch: Microbatch, batch: StepBatch) -> Tensor:
        output = self._model(microbatch.inputs).float()
        loss = self._task.loss_sum(output, microbatch) / self._task.loss_weight(self._train, batch.rows)
        return loss.view(1)

    def is_evaluation_step(self, num_done: int) -> bool:
        eval_steps = self._config.train.eval_steps
        return self._sampler.ends_epoch(num_done) or (eval_steps is not None and num_done % eval_steps == 0)

    def evaluate(self) -> TaskMetrics:
        metrics: TaskMetrics = evaluate(
            self._model,
            self._validation.valid,
            task=self._task,
            text=self._config.text,
            tokenizer=self._validation.tokenizer,
            batch_size=self._config.train.eval_batch_size,
            precision=self._config.train.precision,
            microbatch_tokens=self._config.train.microbatch_tokens,
        )
        return metrics

    def value_of(self, scores: TaskMetrics) -> float:
        return scores.value_of(self._validation.metric)

    def scores_from_json(self, content: Mapping[str, Any]) -> TaskMetrics:
        metrics: TaskMetrics = self._task.metrics_from_json(content)
        return metrics

    def is_out_of_patience(self, state: RunState) -> bool:
        patience = self._config.train.patience
        return patience is not None and state.num_worse >= patience

    def step_to_keep(self, state: RunState) -> int | None:
        keeps_best = self._config.train.keep_weights == "best"
        return state.best.step if state.best and keeps_best else None


def memory_need(model: TaskModel, *, config: FinetuneConfig, lengths: Int64s) -> MemoryNeed:
    """Estimate a worker's memory for its share of the longest batch that the data could give.

    lengths: of all rows, in tokens. On CPUs words that do not occur have no moments, and need less.
    """
    device, train = next(model.parameters()).device, config.train
    share = -(-train.batch_size // (current_ranks().world_size * train.accumulation))
    longest_first = -np.sort(-lengths)
    num_tokens = min(train.microbatch_tokens, int(longest_first[:share].sum()))
    words = model.bert.embeddings.word_embeddings.weight
    num_weights = sum(p.numel() for p in model.parameters())
    return estimate_training(
        model.config,
        num_weights=num_weights,
        num_trained=num_trained(model.parameters()) - (words.numel() if device.type == "cpu" else 0),
        num_tokens=max(num_tokens, int(longest_first[0])),
        max_len=min(int(longest_first[0]), config.text.max_len),
        dtype=training_dtype(train.precision, device),
        device=device,
        recomputes=train.activation_checkpointing,
    )


def _finish(
    loop: TrainLoop, *, validation: Validation, job_dir: JobDir, draws: bool, keeps_best: bool
) -> FinetuneResult:
    """Load the best weights into the model, unless the last are to be kept; plot the curves."""
    best, plots = loop.state.best, tuple[str, ...]()
    kept = best if keeps_best else loop.state.last
    if loop.stopped is None and kept:
        if kept.step != loop.state.num_done:
            loop.load_checkpoint_weights(kept.step)
        if draws and loop.lines is not None:
            from bertjobs.training.monitoring.plots import (
                save_plots,  # matplotlib: paid at the end, not at the start
            )

            title = f"Development split, {'best' if keeps_best else 'last'} weights"
            images = validation.task.plots(kept.metrics, title=title)
            plots = save_plots(job_dir.outputs(), loop.lines, images, metric=validation.metric)
    is_early = not loop.is_finished and loop.stopped is None
    return FinetuneResult(
        num_steps=loop.state.num_done,
        metrics=kept.metrics if kept else None,
        best_step=best.step if best else 0,
        stopped="early stopping" if is_early else loop.stopped,
        plots=plots,
    )
