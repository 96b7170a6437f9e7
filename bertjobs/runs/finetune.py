"""Fine-tune: the driver reads, encodes and starts the gang; every worker runs `training.finetune`.

What a worker does with a classifier: build it, train it, predict with it, leave it as an artefact. A
fine-tuning and each trial of a search do the same.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from bertjobs.config import FinetuneConfig
from bertjobs.modeling.build import build_classifier
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.heads import BertForSequenceClassification
from bertjobs.modeling.weights import save_pretrained
from bertjobs.runs import ray_train
from bertjobs.runs.artefacts import Artefact, Collector, write_predictions
from bertjobs.runs.data.encode_split import encode
from bertjobs.runs.data.rows import Rows, read_training_rows
from bertjobs.runs.model_source import model_and_tokenizer
from bertjobs.runs.reporting import TrainingHooks, stop_reason
from bertjobs.runs.run_context import Outcome, Run
from bertjobs.storage import JobDir
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import resolve_task
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.vocabulary import train_wordpiece
from bertjobs.training.distributed import current_ranks
from bertjobs.training.evaluate import evaluate
from bertjobs.training.finetune import finetune
from bertjobs.training.metrics import Metrics
from bertjobs.training.progress import FinetuneResult, Hooks

log = logging.getLogger(__name__)


def run_finetune(run: Run[FinetuneConfig]) -> Outcome:
    """Drive one fine-tuning attempt.

    Raises: DataError, ModelError, ConfigError: the request is wrong. TrainingError, WorkerLost, LeaseLost.
    """
    began = time.monotonic()
    task = resolve_task(run.config.task.name)
    train, valid = rows = read_rows(run, task)
    source, tokenizer = load_source(run, train, max_len=run.config.text.max_len)
    lesson = prepare(run, task=task, source=source, tokenizer=tokenizer, rows=rows)
    run.reporter.set_phase("starting workers")
    returned = ray_train.train(
        run,
        finetune_worker,
        work={
            "config": run.config,
            "lesson": lesson,
            "job_dir": run.job_dir,
            "job_id": run.id,
            "checkpoint": run.checkpoint,
            "open_reporter": run.open_reporter,
        },
    )
    if reason := returned["stopped"]:
        raise stop_reason(reason)
    run.reporter.set_phase("writing predictions")
    predictions = write_predictions(run.job_dir, valid.table, task=task, workers=run.grant.workers)
    metrics = returned["metrics"] | {
        "num_train_examples": train.table.num_rows,
        "run_s": time.monotonic() - began,
    }
    run.job_dir.write_json("metrics.json", metrics)
    return Outcome(
        metrics=metrics,
        artifacts={
            "model": run.job_dir.path_of("model"),
            "predictions": predictions,
            "plots": [run.job_dir.path_of(name) for name in returned["plots"]],
        },
    )


def finetune_worker(work: dict[str, Any]) -> dict[str, Any]:
    """Train on one rank; rank 0 reports, writes the model and returns the metrics."""
    config: FinetuneConfig = work["config"]
    lesson: Lesson = work["lesson"]
    job_dir: JobDir = work["job_dir"]
    reporter = ray_train.begin_rank(work)
    model = build(lesson, config=config, device=ray.train.torch.get_device())
    result = train(
        model,
        lesson=lesson,
        config=config,
        metric=lesson.task.metric,
        job_dir=job_dir,
        hooks=TrainingHooks(reporter, metric=lesson.task.metric),
        resume=work["checkpoint"],
        draws=True,
    )
    if result.metrics is None or result.stopped not in (None, "early stopping"):
        return {"stopped": result.stopped}
    predictions, _ = predict(model, lesson=lesson, config=config)
    predictions.write(job_dir, rank=current_ranks().rank)
    if current_ranks().rank == 0:
        reporter.command()  # raises where the lease is lost: another attempt's model must not be replaced
        write_model(model, lesson=lesson, config=config, job_dir=job_dir, trained_by=work["job_id"])
    return {
        "stopped": None,
        "plots": list(result.plots),
        "metrics": result.metrics.to_json()
        | {
            "best_step": result.best_step,
            "num_steps": result.num_steps,
            "ended_by": result.stopped or "last step",
        },
    }


def read_rows(run: Run[Any], task: Task) -> tuple[Rows, Rows]:
    """Return the rows to train on and those to validate on. Raises: DataError."""
    run.reporter.set_phase("reading data")
    train, valid = read_training_rows(task, run.config.data, cache=run.settings.cache)
    for name, rows in (("train", train), ("validate", valid)):
        log.info("%s on %d rows of %s, left out: %s", name, rows.table.num_rows, rows.split, rows.num_dropped)
    return train, valid


def load_source(run: Run[Any], train: Rows, *, max_len: int) -> tuple[LoadedModel | BertConfig, Tokenizer]:
    """Load what `--model` names; a new vocabulary is trained on the training rows. Raises: ModelError."""
    return model_and_tokenizer(
        run,
        max_len=max_len,
        new_vocabulary=lambda: _vocabulary(train, vocab_size=run.config.model.vocab_size),
    )


def _vocabulary(train: Rows, *, vocab_size: int) -> Tokenizer:
    columns = [train.table[name] for name in ("text_a", "text_b") if name in train.table.column_names]
    texts = pa.chunked_array([chunk for column in columns for chunk in column.chunks])
    return train_wordpiece(texts, vocab_size=vocab_size)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is learned and from what; it lies in the object store once, however many workers read it."""

    task: Task
    source: ray.ObjectRef
    """Weights, or the size of a model to begin with random ones."""
    tokenizer: Tokenizer
    train: ray.ObjectRef
    valid: ray.ObjectRef
    """Encoded rows; perhaps still being encoded."""


def prepare(
    run: Run, *, task: Task, source: LoadedModel | BertConfig, tokenizer: Tokenizer, rows: tuple[Rows, Rows]
) -> Lesson:
    """Put the weights into the object store and begin to encode the rows: those to train on, those to
    validate on."""
    train, valid = (encode(part, run, task=task, tokenizer=tokenizer) for part in rows)
    return Lesson(task=task, source=ray.put(source), tokenizer=tokenizer, train=train, valid=valid)


def build(lesson: Lesson, *, config: FinetuneConfig, device: str) -> BertForSequenceClassification:
    """Return the model before its first step."""
    return build_classifier(
        ray.get(lesson.source),
        num_labels=len(lesson.task.labels),
        seed=config.train.seed,
        hidden_dropout=config.model.hidden_dropout,
        attention_dropout=config.model.attention_dropout,
        classifier_dropout=config.model.classifier_dropout,
    ).to(device)


def train(
    model: BertForSequenceClassification,
    *,
    lesson: Lesson,
    config: FinetuneConfig,
    metric: str,
    job_dir: JobDir,
    hooks: Hooks,
    resume: str | None,
    draws: bool,
) -> FinetuneResult:
    """Train on this rank; raises as `finetune`, and what encoding raised."""
    return finetune(
        model,
        config=config,
        train=EncodedTable.from_arrow(ray_train.fetch(lesson.train)),
        valid=EncodedTable.from_arrow(ray_train.fetch(lesson.valid)),
        labels=lesson.task.labels,
        specials=lesson.tokenizer,
        metric=metric,
        job_dir=job_dir,
        hooks=hooks,
        resume=resume,
        draws=draws,
    )


def predict(
    model: BertForSequenceClassification, *, lesson: Lesson, config: FinetuneConfig
) -> tuple[Collector, Metrics]:
    """Predict this rank's validation rows; the metrics are over all ranks."""
    valid = EncodedTable.from_arrow(ray_train.fetch(lesson.valid))
    collector = Collector(valid.num_rows, num_labels=len(lesson.task.labels))
    metrics = evaluate(
        model,
        valid,
        labels=lesson.task.labels,
        text=config.text,
        specials=lesson.tokenizer,
        batch_size=config.train.eval_batch_size,
        precision=config.train.precision,
        on_predictions=collector.add,
    )
    return collector, metrics


def write_model(
    model: BertForSequenceClassification,
    *,
    lesson: Lesson,
    config: FinetuneConfig,
    job_dir: JobDir,
    trained_by: str,
) -> None:
    """Publish `model/`. Raises: StorageError."""
    with job_dir.new_dir("model") as folder:
        save_pretrained(model, folder, labels=lesson.task.labels)
        lesson.tokenizer.save(folder)
        Artefact(task=lesson.task, text=config.text, trained_by=trained_by).write(folder)
