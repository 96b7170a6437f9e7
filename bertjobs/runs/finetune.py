"""Fine-tune: the driver reads, encodes and starts the gang; every worker runs `training.finetune`."""

import logging
import time
from typing import Any

import pyarrow as pa
import ray

from bertjobs.config import FinetuneConfig
from bertjobs.modeling.build import build_classifier
from bertjobs.modeling.heads import BertForSequenceClassification
from bertjobs.modeling.weights import save_pretrained
from bertjobs.runs import gang
from bertjobs.runs.artefact import Artefact
from bertjobs.runs.encode import encode
from bertjobs.runs.model_source import model_and_tokenizer
from bertjobs.runs.predictions import Collector, write_predictions
from bertjobs.runs.reporting import TrainingHooks, stop_reason
from bertjobs.runs.rows import Rows, read_training_rows
from bertjobs.runs.run import OpenReporter, Outcome, Run
from bertjobs.storage import JobDir
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.tasks import Task, resolve_task
from bertjobs.text.tokenizers import Tokenizer, train_wordpiece
from bertjobs.training.evaluate import evaluate
from bertjobs.training.finetune import finetune
from bertjobs.training.ranks import current_ranks

log = logging.getLogger(__name__)


def run_finetune(run: Run[FinetuneConfig]) -> Outcome:
    """Drive one fine-tuning attempt.

    Raises: DataError, ModelError, ConfigError: the request is wrong. TrainingError, WorkerLost, LeaseLost.
    """
    began = time.monotonic()
    task = resolve_task(run.config.task.name)
    run.reporter.set_phase("reading data")
    train, valid = read_training_rows(task, run.config.data, cache=run.settings.cache)
    _announce(train, valid)
    source, tokenizer = model_and_tokenizer(
        run,
        max_len=run.config.text.max_len,
        new_vocabulary=lambda: _vocabulary(train, vocab_size=run.config.model.vocab_size),
    )
    encoded = [encode(rows, run, task=task, tokenizer=tokenizer) for rows in (train, valid)]
    run.reporter.set_phase("starting workers")
    returned = gang.train(
        run,
        finetune_worker,
        work={
            "config": run.config,
            "task": task,
            "source": ray.put(source),
            "tokenizer": tokenizer,
            "encoded": encoded,
            "job_dir": run.job_dir,
            "job_id": run.id,
            "checkpoint": run.checkpoint,
            "open_reporter": run.open_reporter,
            "workers": run.grant.workers,
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
    task: Task = work["task"]
    job_dir: JobDir = work["job_dir"]
    open_reporter: OpenReporter = work["open_reporter"]
    context = ray.train.get_context()
    gang.set_threads(context.get_local_world_size())
    reporter = open_reporter()
    if (nodes := gang.nodes_of_ranks()) and context.get_world_rank() == 0:
        reporter.report_nodes(nodes)
    train, valid = (EncodedTable.from_arrow(gang.fetch(ref)) for ref in work["encoded"])
    model = build_classifier(
        ray.get(work["source"]),
        num_labels=len(task.labels),
        seed=config.train.seed,
        hidden_dropout=config.model.hidden_dropout,
        attention_dropout=config.model.attention_dropout,
        classifier_dropout=config.model.classifier_dropout,
    ).to(ray.train.torch.get_device())
    result = finetune(
        model,
        config=config,
        train=train,
        valid=valid,
        labels=task.labels,
        specials=work["tokenizer"],
        metric=task.metric,
        job_dir=job_dir,
        hooks=TrainingHooks(reporter, metric=task.metric),
        resume=work["checkpoint"],
    )
    if result.metrics is None or result.stopped not in (None, "early stopping"):
        return {"stopped": result.stopped}
    _predict(model, valid, work)
    if current_ranks().rank == 0:
        reporter.command()  # raises where the lease is lost: another attempt's model must not be replaced
        _write_model(model, work)
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


def _predict(model: BertForSequenceClassification, valid: EncodedTable, work: dict[str, Any]) -> None:
    """Write this rank's predictions of the validation rows."""
    config: FinetuneConfig = work["config"]
    labels = work["task"].labels
    collector = Collector(valid.num_rows, num_labels=len(labels))
    evaluate(
        model, valid,
        labels=labels, text=config.text, specials=work["tokenizer"],
        batch_size=config.train.eval_batch_size, precision=config.train.precision,
        on_predictions=collector.add,
    )  # fmt: skip
    collector.write(work["job_dir"], rank=current_ranks().rank)


def _write_model(model: BertForSequenceClassification, work: dict[str, Any]) -> None:
    task: Task = work["task"]
    with work["job_dir"].new_dir("model") as folder:
        save_pretrained(model, folder, labels=task.labels)
        work["tokenizer"].save(folder)
        Artefact(task=task, text=work["config"].text, trained_by=work["job_id"]).write(folder)


def _vocabulary(train: Rows, *, vocab_size: int) -> Tokenizer:
    columns = [train.table[name] for name in ("text_a", "text_b") if name in train.table.column_names]
    texts = pa.chunked_array([chunk for column in columns for chunk in column.chunks])
    return train_wordpiece(texts, vocab_size=vocab_size)


def _announce(train: Rows, valid: Rows) -> None:
    for name, rows in (("train", train), ("validate", valid)):
        log.info("%s on %d rows of %s, left out: %s", name, rows.table.num_rows, rows.split, rows.num_dropped)
