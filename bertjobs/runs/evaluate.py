"""Evaluate a fine-tuned model on a split or a file: metrics, confusion matrix, predictions."""

import logging
from pathlib import Path
from typing import Any

import ray

from bertjobs.config import EvaluateConfig
from bertjobs.config.finetune import EvalTextSection
from bertjobs.config.sections import TextSection
from bertjobs.errors import ConfigError, ModelError
from bertjobs.modeling.build import build_classifier
from bertjobs.runs import ray_train
from bertjobs.runs.artefacts import Artefact, Collector, read_artefact, write_predictions
from bertjobs.runs.data.encode_split import encode
from bertjobs.runs.data.rows import read_evaluation_rows
from bertjobs.runs.model_source import load_with_vocabulary, locate_model
from bertjobs.runs.run_context import Outcome, Run
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import resolve_task
from bertjobs.text.encoding import EncodedTable
from bertjobs.training.distributed import current_ranks
from bertjobs.training.evaluate import evaluate
from bertjobs.training.metrics import Metrics
from bertjobs.training.plots import draw_confusion

log = logging.getLogger(__name__)

CONFUSION = "plots/confusion.png"


def run_evaluate(run: Run[EvaluateConfig]) -> Outcome:
    """Drive one evaluation.

    Raises: DataError, ModelError, ConfigError: the request is wrong, or contradicts the model. WorkerLost.
    """
    task = resolve_task(run.config.task.name)
    folder = locate_model(run.config.model.source, run)
    if folder is None:
        raise ModelError(f"--model {run.config.model.source}: random weights have nothing to evaluate.")
    artefact = read_artefact(folder) if folder.is_dir() else None
    check_task(task, artefact, folder)
    text = trained_text(run.config.text, artefact)
    run.reporter.set_phase("reading data")
    rows = read_evaluation_rows(task, run.config.data, cache=run.settings.cache)
    log.info("evaluate %d rows of %s, left out: %s", rows.table.num_rows, rows.split, rows.num_dropped)
    loaded, tokenizer = load_with_vocabulary(folder, run)
    loaded.config.check_fits(vocab_size=tokenizer.vocab_size, max_len=text.max_len)
    work = {
        "config": run.config,
        "task": task,
        "text": text,
        "source": ray.put(loaded),
        "tokenizer": tokenizer,
        "encoded": encode(rows, run, task=task, tokenizer=tokenizer),
        "job_dir": run.job_dir,
        "open_reporter": run.open_reporter,
    }
    run.reporter.set_phase("starting workers")
    start = ray_train.call if run.grant.workers == 1 else ray_train.train
    metrics: Metrics = start(run, evaluate_worker, work=work)
    run.job_dir.write_json("metrics.json", metrics.to_json())
    plots = []
    if metrics.num_examples:
        title = f"{task.name}, {Path(rows.split).name}"
        run.job_dir.write_bytes(CONFUSION, draw_confusion(metrics, title=title))
        plots.append(run.job_dir.path_of(CONFUSION))
    predictions = write_predictions(run.job_dir, rows.table, task=task, workers=run.grant.workers)
    return Outcome(
        metrics=metrics.to_json(),
        artifacts={"model": str(folder), "predictions": predictions, "plots": plots},
    )


def evaluate_worker(work: dict[str, Any]) -> Metrics:
    """Predict one rank's rows; every rank returns the metrics over all of them."""
    config: EvaluateConfig = work["config"]
    task: Task = work["task"]
    is_gang = work["grant"].workers > 1
    ray_train.set_threads(
        work["grant"], workers_on_node=ray.train.get_context().get_local_world_size() if is_gang else 1
    )
    reporter = work["open_reporter"]()
    table = EncodedTable.from_arrow(ray_train.fetch(work["encoded"]))
    device = ray.train.torch.get_device() if is_gang else _device(config.resources.gpus)
    model = build_classifier(ray.get(work["source"]), num_labels=len(task.labels), seed=0, keep_head=True).to(
        device
    )
    collector = Collector(table.num_rows, num_labels=len(task.labels))

    def on_progress(done: int, total: int) -> None:
        reporter.progress({"step": done, "num_steps": total, "epoch": 0})

    metrics = evaluate(
        model, table,
        labels=task.labels, text=work["text"], specials=work["tokenizer"], batch_size=config.train.batch_size,
        precision=config.train.precision, on_predictions=collector.add,
        on_progress=on_progress if current_ranks().rank == 0 else None,
    )  # fmt: skip
    collector.write(work["job_dir"], rank=current_ranks().rank)
    return metrics


def trained_text(asked: EvalTextSection, artefact: Artefact | None) -> TextSection:
    """Return how texts are cut: as the model was trained, or as asked where nothing is known of that.

    Raises: ConfigError: what is asked contradicts what the model was trained with.
    """
    given = asked.model_dump(exclude_none=True)
    if artefact is None:
        return TextSection.model_validate(given)
    trained = artefact.text.model_dump()
    for name, value in given.items():
        if value != trained[name]:
            raise ConfigError(
                f"--{name.replace('_', '-')} {value}: the model was trained with {trained[name]}.",
                hint="Leave the flag out; it belongs to the model.",
            )
    return artefact.text


def check_task(task: Task, artefact: Artefact | None, folder: Path) -> None:
    """Raises: ModelError: the model has no classifier, or one for other labels."""
    if artefact is None:
        return
    if artefact.task is None:
        raise ModelError(
            f"--model {folder}: it was pretrained and has no classifier.",
            hint="Fine-tune it first: bertjobs submit finetune --model ...",
        )
    if artefact.task.labels != task.labels:
        raise ModelError(
            f"--task {task.name}: the model {folder} was trained for {artefact.task.name} "
            f"({', '.join(artefact.task.labels)}).",
            hint=f"Give --task {artefact.task.name}, or another --model.",
        )


def _device(gpus: int) -> str:
    return "cuda" if gpus else "cpu"
