"""Predict texts, or the rows of files, in this process: without Ray, without a queue, in fp32 on a CPU."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from bertjobs.config import PredictConfig
from bertjobs.errors import DataError
from bertjobs.runs.predict.trained import TrainedModel, load_trained
from bertjobs.settings import Settings
from bertjobs.text.corpus.files import PREDICTED_SUFFIXES, own_files
from bertjobs.text.datasets.examples import example_format
from bertjobs.text.datasets.task import Task, choice_labels
from bertjobs.text.input_rows import PLACE_COLUMNS, fit_task, plan_rows, read_rows
from bertjobs.text.text_pairs import quoted, split_pair
from bertjobs.training.predict import Predictor
from bertjobs.training.tasks.task_type import Floats, RankedValue
from bertjobs.training.tasks.types import task_type

Warn = Callable[[str], None]

PAIR_SEPARATOR = "|"
ROWS_PER_BLOCK = 1024
"""Texts that are predicted together; of files, a span."""


@dataclass(frozen=True, kw_only=True)
class GivenTexts:
    """What a user gives to predict on the command line."""

    texts: Sequence[str]
    """Texts, pairs (`first|second`), questions, or beginnings."""
    text_pair: str | None = None
    """The second text of each of them."""
    context: str | None = None
    """Where the answers to questions are."""
    endings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class PredictedRows:
    """Rows with what is predicted for them."""

    task: Task
    table: pa.Table
    """The columns that were given, then those of the predictions."""
    texts: list[tuple[str, ...]]
    """Of each row, in the order of the task's columns."""
    ranked: list[list[RankedValue]]
    """The predicted value of each row, then the others, best first."""
    null_odds: list[float] | None
    """Of questions that may have no answer: how much better that scores than the best answer, in logits."""

    def shown(self, *, top_k: int | None) -> list[list[RankedValue]]:
        """Return what is shown of each row: what is predicted, or its `top_k` best values, or (None) all."""
        if top_k == 1:
            return [[value for value in ranked if value.is_predicted] for ranked in self.ranked]
        return [ranked[:top_k] for ranked in self.ranked]


def predict_texts(
    given: GivenTexts, *, config: PredictConfig, settings: Settings, warn: Warn
) -> PredictedRows:
    """Predict each text; warn of truncated ones.

    Raises: DataError: there is no text, one is empty, or something that the task needs is missing or has no
        effect. ModelError, ConfigError: as `load_trained`.
    """
    if not given.texts:
        raise DataError(
            "No text was given",
            hint="Give texts, `-` to read them from stdin, one per line, or a file of rows (--data).",
        )
    with ExitStack() as resources:
        trained = load_trained(config, settings=settings, resources=resources)
    task, rows = rows_of_texts(given, trained)
    names = task.columns.texts
    table = pa.table({name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)})
    predictor = build_predictor(trained, config, task=task)
    blocks = [
        _predicted(rows[at : at + ROWS_PER_BLOCK], table.slice(at, ROWS_PER_BLOCK), task, predictor, warn)
        for at in range(0, len(rows), ROWS_PER_BLOCK)
    ]
    return _joined(blocks)


def predict_files(config: PredictConfig, *, settings: Settings, warn: Warn) -> PredictedRows:
    """Predict the rows of files; warn of truncated ones.

    Raises: DataError: a file is missing, damaged, or lacks a column; a row is bad. ModelError, ConfigError:
        as `load_trained`.
    """
    files = own_files(config.data.path, flag="--data", suffixes=PREDICTED_SUFFIXES, content="rows")
    plan = plan_rows(files, config.data)
    with ExitStack() as resources:
        trained = load_trained(config, settings=settings, resources=resources)
    task = fit_task(trained.task, plan.schema, files[0], is_pair_known=trained.is_pair_known)
    predictor = build_predictor(trained, config, task=task)
    blocks = []
    for span in plan.spans:
        for table, texts in read_rows(span, plan.schema, config.data, format=example_format(task)):
            if texts:
                given = table.drop_columns(list(PLACE_COLUMNS))
                blocks.append(_predicted(texts, given, task, predictor, warn))
    if not blocks:
        raise DataError(
            f"--data {config.data.path}: all of its {plan.num_rows} rows are blank or broken",
            hint="Give files with rows in them.",
        )
    return _joined(blocks)


def build_predictor(trained: TrainedModel, config: PredictConfig, *, task: Task) -> Predictor:
    """Build the model with its head on the CPU. Raises: ModelError."""
    return Predictor(
        trained.build(),
        task=task,
        text=trained.text,
        tokenizer=trained.tokenizer,
        batch_size=config.train.batch_size,
        precision=config.train.precision,
    )


def rows_of_texts(given: GivenTexts, trained: TrainedModel) -> tuple[Task, list[tuple[str, ...]]]:
    """Return the task of these rows, and the texts of each.

    Raises: DataError: something is missing, empty, or has no effect on a task of this type.
    """
    task = trained.task
    _check_given(given, task)
    for text in given.texts:
        if not text.strip():
            raise DataError(f"The text {quoted(text)} is empty", hint="Give a text with a word in it.")
    if task.type == "span":
        if given.context is None or not given.context.strip():
            raise DataError(
                f"There is no context: {task.name} looks for the answer to a question in one",
                hint="Give it with `--context TEXT`, or give a file with both (--data).",
            )
        return task, [(question, given.context) for question in given.texts]
    rows = [_first_and_second(text, given, task, is_known=trained.is_pair_known) for text in given.texts]
    if task.type == "multiple_choice":
        task = with_num_endings(task, len(given.endings))
        rows = [(*row, *given.endings) for row in rows]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise DataError("Some of the texts are pairs and some are not", hint="Give one kind at a time.")
    if task.type != "multiple_choice" and not trained.is_pair_known:
        second = "text_b" if widths == {2} else None
        task = replace(task, columns=replace(task.columns, text_b=second))
    return task, rows


def _check_given(given: GivenTexts, task: Task) -> None:
    """Raises: DataError: what was given has no effect, or endings are missing or empty."""
    allowed = {
        "--context": task.type == "span",
        "--ending": task.type == "multiple_choice",
        "--text-pair": task.type != "span" and task.columns.text_b is not None,
    }
    used = {
        "--context": given.context is not None,
        "--ending": bool(given.endings),
        "--text-pair": given.text_pair is not None,
    }
    for flag, is_used in used.items():
        if is_used and not allowed[flag]:
            raise DataError(
                f"{flag} has no effect: the task {task.name} ({task.type}) reads "
                f"{', '.join(task.columns.texts)}",
                hint="Leave it out, or give another --model.",
            )
    if task.type == "multiple_choice" and len(given.endings) < 2:
        raise DataError(
            f"{task.name} chooses among endings, and {len(given.endings)} "
            f"{'was' if len(given.endings) == 1 else 'were'} given",
            hint="Give each with `--ending TEXT`, two or more.",
        )
    if not all(ending.strip() for ending in given.endings):
        raise DataError("An ending is empty", hint="Give a text with a word in it (--ending).")


def _first_and_second(text: str, given: GivenTexts, task: Task, *, is_known: bool) -> tuple[str, ...]:
    """Return one or two texts: `a|b` is a pair where the task may have pairs."""
    if task.columns.text_b is None:
        return (text,)
    if given.text_pair is not None:
        if not given.text_pair.strip():
            raise DataError("The second text is empty", hint="Give a text with a word in it (--text-pair).")
        return (text, given.text_pair)
    first, second = split_pair(text, PAIR_SEPARATOR)
    if second is not None:
        return (first, second)
    if is_known:
        raise DataError(
            f"The text {quoted(text)} is a single one, but {task.name} is about pairs",
            hint="Give `first|second`, or the second text with `--text-pair TEXT`.",
        )
    return (text,)


def with_num_endings(task: Task, count: int) -> Task:
    """Return a task of multiple choice with this many endings."""
    known = task.columns.endings
    names = known if len(known) == count else tuple(f"ending{i}" for i in range(count))
    labels = choice_labels(count)
    return replace(task, labels=labels, label_values=labels, columns=replace(task.columns, endings=names))


def _predicted(
    texts: Sequence[tuple[str, ...]], given: pa.Table, task: Task, predictor: Predictor, warn: Warn
) -> PredictedRows:
    rows = example_format(task).unlabelled(texts)
    encoded = predictor.encode(rows)
    for i, (kept, uncut) in enumerate(zip(*predictor.num_tokens(encoded), strict=True)):
        if kept < uncut:
            text = texts[i][0]
            warn(f"The text {quoted(text)} has {uncut} tokens and is truncated to {kept} (--max-len)")
    outputs = predictor.outputs(encoded)
    table = with_predictions(given, rows, outputs, task=task)
    return PredictedRows(
        task=task,
        table=table,
        texts=list(texts),
        ranked=task_type(task).ranked(rows, outputs),
        null_odds=table["null_odds"].to_pylist() if task.unanswerable else None,
    )


def with_predictions(given: pa.Table, rows: pa.Table, outputs: Floats, *, task: Task) -> pa.Table:
    """Return the given columns with those of the predictions (`TaskType.prediction_columns`) after them.

    Raises: DataError: a given column has the name of one of those.
    """
    columns = task_type(task).prediction_columns(rows, outputs)
    columns.pop("label", None)
    for name, values in columns.items():
        if name in given.column_names:
            raise DataError(
                f"The rows have a column {name!r} already, which the predictions would have too",
                hint="Rename it in the file.",
            )
        array = pa.array(values) if isinstance(values, np.ndarray) else values
        given = given.append_column(name, array)
    return given


def _joined(blocks: Sequence[PredictedRows]) -> PredictedRows:
    first = blocks[0]
    return PredictedRows(
        task=first.task,
        table=pa.concat_tables([block.table for block in blocks]),
        texts=[row for block in blocks for row in block.texts],
        ranked=[row for block in blocks for row in block.ranked],
        null_odds=None if first.null_odds is None else [x for b in blocks for x in b.null_odds or ()],
    )
