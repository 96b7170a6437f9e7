"""Fine-tune: the driver reads, encodes and starts the gang; every worker runs `training.finetune`."""

import logging
import time
from typing import Any

import pyarrow as pa
import ray

from bertjobs.config import FinetuneConfig
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.runs import classifier, gang
from bertjobs.runs.classifier import Lesson
from bertjobs.runs.model_source import model_and_tokenizer
from bertjobs.runs.predictions import write_predictions
from bertjobs.runs.reporting import TrainingHooks, stop_reason
from bertjobs.runs.rows import Rows, read_training_rows
from bertjobs.runs.run import Outcome, Run
from bertjobs.storage import JobDir
from bertjobs.text.tasks import Task, resolve_task
from bertjobs.text.tokenizers import Tokenizer, train_wordpiece
from bertjobs.training.ranks import current_ranks

log = logging.getLogger(__name__)


def run_finetune(run: Run[FinetuneConfig]) -> Outcome:
    """Drive one fine-tuning attempt.

    Raises: DataError, ModelError, ConfigError: the request is wrong. TrainingError, WorkerLost, LeaseLost.
    """
    began = time.monotonic()
    task = resolve_task(run.config.task.name)
    train, valid = rows = read_rows(run, task)
    source, tokenizer = load_source(run, train, max_len=run.config.text.max_len)
    lesson = classifier.prepare(run, task=task, source=source, tokenizer=tokenizer, rows=rows)
    run.reporter.set_phase("starting workers")
    returned = gang.train(
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
    reporter = gang.begin_rank(work)
    model = classifier.build(lesson, config=config, device=ray.train.torch.get_device())
    result = classifier.train(
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
    predictions, _ = classifier.predict(model, lesson=lesson, config=config)
    predictions.write(job_dir, rank=current_ranks().rank)
    if current_ranks().rank == 0:
        reporter.command()  # raises where the lease is lost: another attempt's model must not be replaced
        classifier.write_model(
            model, lesson=lesson, config=config, job_dir=job_dir, trained_by=work["job_id"]
        )
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
