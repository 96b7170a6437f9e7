"""Evaluate a fine-tuned model on splits or files: metrics, plots, predictions.

Knows no queue: the run's reporter does.
"""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from bertjobs.config import EvaluateConfig
from bertjobs.config.sections import TextSection
from bertjobs.errors import ModelError
from bertjobs.jobs.job import Grant
from bertjobs.runs import ray_train
from bertjobs.runs.artefacts import (
    Predictions,
    check_task,
    read_artefact,
    trained_text,
    write_predictions,
)
from bertjobs.runs.data.encode_split import encode
from bertjobs.runs.data.rows import Rows, read_evaluation_rows
from bertjobs.runs.model_source import load_with_vocabulary, locate_model
from bertjobs.runs.reporting import watched
from bertjobs.runs.run_context import OpenReporter, Outcome, Run
from bertjobs.storage import JobDir
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import configured_task, files_of
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.training.distributed import current_ranks
from bertjobs.training.evaluate import evaluate
from bertjobs.training.tasks.task_type import TaskMetrics
from bertjobs.training.tasks.types import task_type

log = logging.getLogger(__name__)


def run_evaluate(run: Run[EvaluateConfig]) -> Outcome:
    """Drive one evaluation.

    Raises: DataError, ModelError, ConfigError: the request is wrong, or contradicts the model. WorkerLost.
    """
    task = configured_task(run.config.task)
    folder = locate_model(
        run.config.model.source,
        settings=run.settings,
        resources=run.resources,
        on_phase=run.reporter.set_phase,
    )
    if folder is None:
        raise ModelError(
            f"--model {run.config.model.source} names a size with random weights, not a trained model",
            hint="Give the id of a job that succeeded, or the folder of a trained model.",
        )
    artefact = read_artefact(folder) if folder.is_dir() else None
    check_task(task, artefact, folder)
    task = task_type(task).evaluated_task(artefact.task if artefact else None)
    text = trained_text(run.config.text, artefact)
    run.reporter.set_phase("reading data")
    parts = read_evaluation_rows(task, run.config.data, cache=run.settings.cache)
    for rows in parts:
        log.info("evaluate %d rows of %s, left out: %s", rows.table.num_rows, rows.split, rows.num_dropped)
    loaded, tokenizer = load_with_vocabulary(folder, cache=run.settings.cache)
    loaded.config.check_fits(vocab_size=tokenizer.vocab_size, max_len=text.max_len)
    work = EvaluateWork(
        config=run.config,
        task=task,
        text=text,
        source=ray.put(loaded),
        tokenizer=tokenizer,
        encoded=tuple(encode(rows, run, task=task, tokenizer=tokenizer) for rows in parts),
        grant=run.grant,
        job_dir=run.job_dir,
        open_reporter=run.open_reporter,
    )
    run.reporter.set_phase("starting workers")
    metrics: list[TaskMetrics]
    if run.grant.workers == 1:
        metrics = ray_train.run_task(evaluate_worker, work, grant=run.grant)
    else:
        metrics = ray_train.run_group(
            evaluate_worker, work, grant=run.grant, run_name=run.attempt_name, settings=run.settings
        )
    result = metrics[0].to_json()
    if len(parts) > 1:
        result["splits"] = {rows.split: m.to_json() for rows, m in zip(parts, metrics, strict=True)}
    run.job_dir.outputs().write_json("metrics.json", result)
    return Outcome(
        metrics=result,
        artifacts={"model": str(folder), **_write_artifacts(run, parts, metrics, task=task)},
    )


def _write_artifacts(
    run: Run[EvaluateConfig], parts: Sequence[Rows], metrics: Sequence[TaskMetrics], *, task: Task
) -> dict[str, Any]:
    """Write plots, predictions and submission files of each split; return their paths.

    The names of the first split's files do not contain its name.
    """
    outputs = run.job_dir.outputs()
    plots: list[str] = []
    predictions: list[str] = []
    submissions: list[str] = []
    for number, (rows, scores) in enumerate(zip(parts, metrics, strict=True)):
        split = Path(rows.split).stem
        if scores.num_examples:
            for name, image in task_type(task).plots(scores, title=f"{task.name}, {split}").items():
                path = f"plots/{split}-{name}" if number else f"plots/{name}"
                outputs.write_bytes(path, image)
                plots.append(outputs.path_of(path))
        written = write_predictions(
            outputs,
            rows.table,
            task=task,
            num_ranks=run.grant.workers,
            number=number,
            name=split if number else "",
            submission=None if scores.num_examples else _submission(task, rows),
        )
        predictions.append(written["predictions"])
        submissions += [written["submission"]] if "submission" in written else []
    found: dict[str, Any] = {"predictions": predictions[0], "plots": plots}
    if len(predictions) > 1:
        found["predictions_of"] = {rows.split: path for rows, path in zip(parts, predictions, strict=True)}
    return found | ({"submissions": submissions} if submissions else {})


def _submission(task: Task, rows: Rows) -> str | None:
    """Return the name of the file that the task's server wants of an unlabelled split; None: it wants none.

    None too where rows were left out: the server counts every row of its file.
    """
    is_whole = rows.limit is None and not any(rows.num_dropped.values())
    return files_of(task).submission.get(rows.split) if is_whole else None


@dataclass(frozen=True, kw_only=True)
class EvaluateWork:
    """What every rank is given."""

    config: EvaluateConfig
    task: Task
    text: TextSection
    source: ray.ObjectRef
    """The trained weights."""
    tokenizer: Tokenizer
    encoded: tuple[ray.ObjectRef, ...]
    """Encoded rows of each split, or the task that is still encoding them."""
    grant: Grant
    job_dir: JobDir
    open_reporter: OpenReporter


def evaluate_worker(work: EvaluateWork) -> list[TaskMetrics]:
    """Predict one rank's rows; every rank returns the metrics of each split, over all its rows."""
    ranks, config, task = current_ranks(), work.config, task_type(work.task)
    device = ray_train.set_up_worker(work.grant)
    with closing(work.open_reporter()) as reporter, watched(reporter, is_first=ranks.is_first):
        if ranks.is_first:
            reporter.set_phase("loading the model")  # the workers are up: the start deadline has been met
        tables = [
            task.prepare(EncodedTable.from_arrow(ray_train.fetch(encoded)), text=work.text)
            for encoded in work.encoded
        ]
        num_rows = -(-sum(table.num_rows for table in tables) // ranks.world_size)
        model = task.build_model(ray.get(work.source), seed=0).to(device)
        found: list[TaskMetrics] = []
        num_before = 0

        def on_progress(done: int, total: int) -> None:
            step = min(num_before + done, num_rows)
            reporter.progress({"step": step, "num_steps": num_rows, "epoch": 0})

        for number, table in enumerate(tables):
            predictions = Predictions(table.num_rows, num_outputs=task.num_outputs)
            metrics: TaskMetrics = evaluate(
                model,
                table,
                task=task,
                text=work.text,
                tokenizer=work.tokenizer,
                batch_size=config.train.batch_size,
                precision=config.train.precision,
                on_predictions=predictions.add,
                on_progress=on_progress if ranks.is_first else None,
            )
            predictions.write(work.job_dir.outputs(), rank=ranks.rank, number=number)
            found.append(metrics)
            num_before += -(-table.num_rows // ranks.world_size)
    return found
