"""Fine-tune a model of a task: the driver reads, encodes and starts the workers; each trains as one rank.

Below them is what a trial of a search shares with a fine-tuning job: its inputs, its predictions, its model.
Knows no queue: the run's reporter does.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from bertjobs.config import FinetuneConfig
from bertjobs.config.sections import TextSection
from bertjobs.jobs.job import Grant
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.weights import save_pretrained
from bertjobs.runs import ray_train
from bertjobs.runs.artefacts import Artefact, Predictions, write_predictions
from bertjobs.runs.data.encode_split import encode
from bertjobs.runs.data.rows import Rows, read_training_rows
from bertjobs.runs.model_card import ModelCard
from bertjobs.runs.model_source import model_and_tokenizer
from bertjobs.runs.reporting import TrainingHooks, stop_reason, watched
from bertjobs.runs.run_context import OpenReporter, Outcome, Run
from bertjobs.runs.trackers import tracked
from bertjobs.storage import JobDir
from bertjobs.text.datasets.examples import example_format
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import configured_task
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.vocabulary import train_wordpiece
from bertjobs.training.distributed import current_ranks
from bertjobs.training.evaluate import OnPredictions, evaluate
from bertjobs.training.finetune import finetune
from bertjobs.training.tasks.task_type import TaskMetrics, TaskModel
from bertjobs.training.tasks.types import task_type

log = logging.getLogger(__name__)


def run_finetune(run: Run[FinetuneConfig]) -> Outcome:
    """Drive one fine-tuning attempt.

    Raises: DataError, ModelError, ConfigError: the request is wrong. TrainingError, WorkerLost, LeaseLost.
    """
    began = time.monotonic()
    task = configured_task(run.config.task)
    train, valid = read_rows(run, task)
    source, tokenizer = load_source(run, train, task=task, max_len=run.config.text.max_len)
    inputs = share_inputs(run, task=task, source=source, tokenizer=tokenizer, train=train, valid=valid)
    run.reporter.set_phase("starting workers")
    returned = ray_train.run_group(
        finetune_worker,
        FinetuneWork(
            config=run.config,
            inputs=inputs,
            grant=run.grant,
            job_dir=run.job_dir,
            job_id=run.id,
            checkpoint=run.checkpoint,
            open_reporter=run.open_reporter,
        ),
        grant=run.grant,
        run_name=run.attempt_name,
        settings=run.settings,
    )
    if reason := returned["stopped"]:
        raise stop_reason(reason)
    run.reporter.set_phase("writing predictions")
    paths = write_predictions(run.job_dir.outputs(), valid[0].table, task=task, num_ranks=run.grant.workers)
    metrics = returned["metrics"] | {
        "num_train_examples": train.table.num_rows,
        "run_s": time.monotonic() - began,
    }
    run.job_dir.outputs().write_json("metrics.json", metrics)
    return Outcome(
        metrics=metrics,
        artifacts={
            "model": run.job_dir.path_of(run.job_dir.own("model")),
            **paths,
            "plots": [run.job_dir.outputs().path_of(name) for name in returned["plots"]],
        },
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneWork:
    """What every rank is given."""

    config: FinetuneConfig
    inputs: "TrainingInputs"
    grant: Grant
    job_dir: JobDir
    job_id: str
    checkpoint: str | None
    """Name of the published checkpoint to resume from."""
    open_reporter: OpenReporter


def finetune_worker(work: FinetuneWork) -> dict[str, Any]:
    """Train on one rank; rank 0 reports, writes the model and returns the metrics."""
    config, inputs, is_first = work.config, work.inputs, current_ranks().is_first
    device = ray_train.set_up_worker(work.grant)
    with (
        closing(work.open_reporter()) as reporter,
        watched(reporter, is_first=is_first),
        tracked(
            config.train.report_to,
            config=config.model_dump(mode="json"),
            job_dir=work.job_dir,
            is_first=is_first,
        ) as tracker,
    ):
        ray_train.report_nodes(reporter)
        model = inputs.build_model(config, device=device)
        result = finetune(
            model,
            config=config,
            train=inputs.train_table(config.text),
            valid=inputs.valid_table(config.text),
            task=task_type(inputs.task),
            tokenizer=inputs.tokenizer,
            metric=inputs.task.metric,
            job_dir=work.job_dir,
            hooks=TrainingHooks(reporter, metric=inputs.task.metric, device=device, tracker=tracker),
            resume=work.checkpoint,
            data_parallel=ray_train.data_parallel,
        )
        if result.metrics is None or result.stopped not in (None, "early stopping"):
            if tracker is not None:
                tracker.end("stopped")
            return {"stopped": result.stopped}
        predictions, metrics = predict(model, inputs=inputs, config=config)
        predictions.write(work.job_dir.outputs(), rank=current_ranks().rank)
        by_split = evaluate_more(model, inputs=inputs, config=config, first=result.metrics)
        if is_first:
            reporter.confirm_lease()
            write_model(
                model,
                inputs=inputs,
                config=config,
                metrics=metrics,
                job_dir=work.job_dir,
                trained_by=work.job_id,
            )
    return {
        "stopped": None,
        "plots": list(result.plots),
        "metrics": result.metrics.to_json()
        | by_split
        | {
            "best_step": result.best_step,
            "num_steps": result.num_steps,
            "ended_by": result.stopped or "last step",
        },
    }


def evaluate_more(
    model: TaskModel, *, inputs: "TrainingInputs", config: FinetuneConfig, first: TaskMetrics
) -> dict[str, Any]:
    """Evaluate the best weights on the other development sets; return the metrics of all, by split."""
    if not inputs.more_valid:
        return {}
    metrics = {inputs.valid_split: first.to_json()}
    for split, table in inputs.more_valid_tables(config.text):
        metrics[split] = _evaluate(model, table, inputs=inputs, config=config).to_json()
    return {"splits": metrics}


def read_rows(run: Run[Any], task: Task) -> tuple[Rows, tuple[Rows, ...]]:
    """Return the rows to train on and those to validate on. Raises: DataError."""
    run.reporter.set_phase("reading data")
    train, valid = read_training_rows(task, run.config.data, cache=run.settings.cache)
    for name, rows in (("train", train), *(("validate", part) for part in valid)):
        log.info("%s on %d rows of %s, left out: %s", name, rows.table.num_rows, rows.split, rows.num_dropped)
    return train, valid


def load_source(
    run: Run[Any], train: Rows, *, task: Task, max_len: int
) -> tuple[LoadedModel | BertConfig, Tokenizer]:
    """Load what `--model` names; a new vocabulary is trained on the training rows. Raises: ModelError."""
    return model_and_tokenizer(
        run,
        max_len=max_len,
        new_vocabulary=lambda: _train_vocabulary(train, task=task, vocab_size=run.config.model.vocab_size),
    )


def _train_vocabulary(train: Rows, *, task: Task, vocab_size: int) -> Tokenizer:
    return train_wordpiece(example_format(task).texts(train.table), vocab_size=vocab_size)


def share_inputs(
    run: Run[Any],
    *,
    task: Task,
    source: LoadedModel | BertConfig,
    tokenizer: Tokenizer,
    train: Rows,
    valid: tuple[Rows, ...],
) -> "TrainingInputs":
    """Put the weights into the object store and start to encode the rows."""
    return TrainingInputs(
        task=task,
        source=ray.put(source),
        tokenizer=tokenizer,
        train=encode(train, run, task=task, tokenizer=tokenizer),
        valid=encode(valid[0], run, task=task, tokenizer=tokenizer),
        valid_split=valid[0].split,
        more_valid={rows.split: encode(rows, run, task=task, tokenizer=tokenizer) for rows in valid[1:]},
    )


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """A task, initial weights and encoded rows: in the object store once, however many workers read them."""

    task: Task
    source: ray.ObjectRef
    """Weights, or the size of a model that starts from random weights."""
    tokenizer: Tokenizer
    train: ray.ObjectRef
    valid: ray.ObjectRef
    """Encoded rows, or the task that is still encoding them."""
    valid_split: str
    more_valid: dict[str, ray.ObjectRef]
    """Further development sets, by name: evaluated once, with the best weights."""

    def build_model(self, config: FinetuneConfig, *, device: torch.device) -> TaskModel:
        """Return the model before its first step."""
        return (
            task_type(self.task)
            .build_model(ray.get(self.source), seed=config.train.seed, model=config.model)
            .to(device)
        )

    def train_table(self, text: TextSection) -> EncodedTable:
        """Return what to train on. Raises: BertjobsError: what encoding raised; a row does not fit."""
        return self._table(self.train, text)

    def valid_table(self, text: TextSection) -> EncodedTable:
        """Return what to validate on. Raises: BertjobsError: what encoding raised; a row does not fit."""
        return self._table(self.valid, text)

    def more_valid_tables(self, text: TextSection) -> Iterator[tuple[str, EncodedTable]]:
        """Yield the further development sets, with their names. Raises: BertjobsError: as `valid_table`."""
        for split, encoded in self.more_valid.items():
            yield split, self._table(encoded, text)

    def _table(self, encoded: ray.ObjectRef, text: TextSection) -> EncodedTable:
        return task_type(self.task).prepare(EncodedTable.from_arrow(ray_train.fetch(encoded)), text=text)


def predict(
    model: TaskModel, *, inputs: TrainingInputs, config: FinetuneConfig
) -> tuple[Predictions, TaskMetrics]:
    """Predict this rank's validation rows; the metrics are over all ranks."""
    valid, task = inputs.valid_table(config.text), task_type(inputs.task)
    predictions = Predictions(valid.num_rows, num_outputs=task.num_outputs)
    metrics = _evaluate(model, valid, inputs=inputs, config=config, on_predictions=predictions.add)
    return predictions, metrics


def _evaluate(
    model: TaskModel,
    table: EncodedTable,
    *,
    inputs: TrainingInputs,
    config: FinetuneConfig,
    on_predictions: OnPredictions | None = None,
) -> TaskMetrics:
    metrics: TaskMetrics = evaluate(
        model,
        table,
        task=task_type(inputs.task),
        text=config.text,
        tokenizer=inputs.tokenizer,
        batch_size=config.train.eval_batch_size,
        precision=config.train.precision,
        on_predictions=on_predictions,
    )
    return metrics


def write_model(
    model: TaskModel,
    *,
    inputs: TrainingInputs,
    config: FinetuneConfig,
    metrics: TaskMetrics,
    job_dir: JobDir,
    trained_by: str,
) -> None:
    """Publish the model under this attempt's name. metrics: those of its weights on the development split.

    Raises: StorageError.
    """
    with job_dir.new_dir(job_dir.own("model")) as folder:
        task = task_type(inputs.task)
        save_pretrained(model, folder, labels=task.class_names, problem_type=task.problem_type)
        inputs.tokenizer.save(folder)
        Artefact(task=task.task_of_model(metrics), text=config.text, trained_by=trained_by).write(folder)
        ModelCard(
            kind="finetune",
            config=config,
            task=inputs.task,
            metrics=metrics.to_json(),
            split=f"{Path(inputs.valid_split).name} split",
            trained_by=trained_by,
        ).write(folder)
