"""The model that predicts: its weights, its vocabulary, and the task that it was trained for.

A model of bertjobs says all of it in `bertjobs.json`. Of any other, `config.json` says which head it has and
which labels, as `transformers` reads it; a task (`--task`) can say more.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace

from bertjobs.config import PredictConfig
from bertjobs.config.finetune import EvalTextSection
from bertjobs.config.sections import TextSection
from bertjobs.errors import ConfigError, ModelError
from bertjobs.modeling.config import LoadedModel
from bertjobs.runs.artefacts import Artefact, check_task, read_artefact, trained_text
from bertjobs.runs.model_source import load_with_vocabulary, locate_model
from bertjobs.settings import Settings
from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.task import Task, choice_labels
from bertjobs.text.datasets.tasks import resolve_task
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.training.tasks.task_type import TaskModel
from bertjobs.training.tasks.types import task_type

_DEFAULT_MAX_LEN = 512
"""Of a model that does not say what it was trained with; fewer where it has fewer positions."""
_NUM_ENDINGS = 4
"""Columns of endings that are expected where nothing names them, as in SWAG."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A fine-tuned model, and how its rows are read."""

    loaded: LoadedModel
    tokenizer: Tokenizer
    task: Task
    text: TextSection
    is_pair_known: bool
    """Whether the task says how many texts a row has; a plain `transformers` model does not."""

    def build(self) -> TaskModel:
        """Build it with its head. Raises: ModelError: the head is missing, or that of another task."""
        return task_type(self.task).build_model(self.loaded, seed=0)


def load_trained(config: PredictConfig, *, settings: Settings, resources: ExitStack) -> TrainedModel:
    """Load the fine-tuned model that `--model` names; `resources` as in `locate_model`.

    Raises: ModelError, ConfigError: it is not a fine-tuned model, is broken, or not of the task asked for.
        DownloadError.
    """
    folder = locate_model(config.model.source, settings=settings, resources=resources)
    if folder is None:
        raise ModelError(
            f"--model {config.model.source} names a size with random weights, not a trained model",
            hint="Give the id of a job that succeeded, or the folder of a trained model.",
        )
    artefact = read_artefact(folder) if folder.is_dir() else None
    asked = None if config.task.name is None else resolve_task(config.task.name)
    if artefact is not None and artefact.task is None:
        raise ModelError(
            f"--model {folder}: it was pretrained and has no head to predict with",
            hint="Fine-tune it first: `bertjobs submit finetune --model ...`.",
        )
    if asked is not None:
        check_task(asked, artefact, folder)
    loaded, tokenizer = load_with_vocabulary(folder, cache=settings.cache)
    trained = None if artefact is None else artefact.task
    task = asked or trained or task_of_weights(loaded)
    if trained is not None:  # what was tuned with the weights
        task = replace(task, null_threshold=trained.null_threshold, unanswerable=trained.unanswerable)
    text = _text_section(config.text, artefact, loaded)
    loaded.config.check_fits(vocab_size=tokenizer.vocab_size, max_len=text.max_len)
    return TrainedModel(
        loaded=loaded,
        tokenizer=tokenizer,
        task=_with_threshold(task, config.task.null_threshold),
        text=text,
        is_pair_known=asked is not None or trained is not None,
    )


def task_of_weights(loaded: LoadedModel) -> Task:
    """Return the task of a model that only `config.json` describes.

    Raises: ModelError: there is no head, or one that is not known.
    """
    tensors, name = loaded.state_dict, loaded.source.name
    if "qa_outputs.weight" in tensors:
        columns = Columns(text_a="question", text_b="context", label="answers")
        return _task(name, type="span", metric="f1", columns=columns)
    if "classifier.weight" not in tensors:
        raise ModelError(
            f"--model {loaded.source}: it has no head to predict with",
            hint="Fine-tune it first: `bertjobs submit finetune --model ...`.",
        )
    columns = Columns(text_a="text_a", text_b="text_b", label="label")
    num_outputs = tensors["classifier.weight"].shape[0]
    if loaded.architecture == "BertForMultipleChoice":
        endings = tuple(f"ending{i}" for i in range(_NUM_ENDINGS))
        return _task(
            name,
            type="multiple_choice",
            labels=choice_labels(_NUM_ENDINGS),
            columns=Columns(text_a="text_a", text_b=None, label="label", endings=endings),
        )
    if loaded.architecture not in (None, "BertForSequenceClassification"):
        raise ModelError(
            f"--model {loaded.source}: its head is that of a {loaded.architecture}, which is not supported",
            hint="Supported are BertForSequenceClassification, BertForMultipleChoice and "
            "BertForQuestionAnswering.",
        )
    if num_outputs == 1:
        return _task(name, type="regression", metric="pearson", columns=columns)
    labels = loaded.labels
    if labels is None or len(labels) != num_outputs:
        labels = tuple(f"LABEL_{i}" for i in range(num_outputs))
    is_set = loaded.problem_type == "multi_label_classification"
    type_, metric = ("multi_label", "f1_micro") if is_set else ("classification", "accuracy")
    return _task(name, type=type_, metric=metric, labels=labels, columns=columns)


def _task(name: str, *, labels: tuple[str, ...] = (), **fields: object) -> Task:
    given: dict[str, object] = {"metric": "accuracy", **fields}
    return Task(name=name, labels=labels, label_values=labels, format="table", no_label=None, **given)  # type: ignore[arg-type]


def _with_threshold(task: Task, threshold: float | None) -> Task:
    """Return the task with a threshold on the null odds. Raises: ConfigError: it has no effect."""
    if threshold is None:
        return task
    if task.type != "span":
        raise ConfigError(
            f"--null-threshold has no effect: {task.name} does not look for answers in a context",
            hint="Leave it out, or give a model of a task such as squad_v2.",
        )
    return replace(task, null_threshold=threshold, unanswerable=True)


def _text_section(asked: EvalTextSection, artefact: Artefact | None, loaded: LoadedModel) -> TextSection:
    if artefact is None and asked.max_len is None:
        num_positions = loaded.config.max_position_embeddings
        asked = asked.model_copy(update={"max_len": min(_DEFAULT_MAX_LEN, num_positions)})
    return trained_text(asked, artefact)
