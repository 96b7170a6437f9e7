"""What a worker does with a classifier: build it, train it, predict with it, leave it as an artefact. A
fine-tuning and each trial of a search do the same."""

from dataclasses import dataclass

import ray

from bertjobs.config import FinetuneConfig
from bertjobs.modeling.build import build_classifier
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.heads import BertForSequenceClassification
from bertjobs.modeling.weights import save_pretrained
from bertjobs.runs import gang
from bertjobs.runs.artefact import Artefact
from bertjobs.runs.encode import encode
from bertjobs.runs.predictions import Collector
from bertjobs.runs.rows import Rows
from bertjobs.runs.run import Run
from bertjobs.storage import JobDir
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.tasks import Task
from bertjobs.text.tokenizers import Tokenizer
from bertjobs.training.evaluate import evaluate
from bertjobs.training.finetune import finetune
from bertjobs.training.metrics import Metrics
from bertjobs.training.progress import FinetuneResult, Hooks


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
        train=EncodedTable.from_arrow(gang.fetch(lesson.train)),
        valid=EncodedTable.from_arrow(gang.fetch(lesson.valid)),
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
    valid = EncodedTable.from_arrow(gang.fetch(lesson.valid))
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
