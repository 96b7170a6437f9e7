"""Predict the rows of files: the job of `bertjobs submit predict`.

    spans of rows -> ReadRows (actors, Ray Data's CPUs) -> PredictRows (an actor per worker) -> Parquet

The driver writes the rows in their order, with their columns and those of the predictions. Memory is bounded
by the blocks in flight.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
import ray

from bertjobs.config import PredictConfig
from bertjobs.config.sections import TextSection
from bertjobs.jobs.job import Grant
from bertjobs.runs.encode.embeddings import EncodeProgress, PartWriter
from bertjobs.runs.encode.pipeline import compute_spans, fail_if_restarted, set_up_actor, write_tables
from bertjobs.runs.predict.predict_rows import with_predictions
from bertjobs.runs.predict.trained import TrainedModel, load_trained
from bertjobs.runs.run_context import Outcome, Run
from bertjobs.text.corpus.files import PREDICTED_SUFFIXES, own_files
from bertjobs.text.datasets.examples import example_format
from bertjobs.text.datasets.task import Task
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.input_rows import PLACE_COLUMNS, RowFiles, fit_task, plan_rows, read_rows
from bertjobs.text.lines import LineSpan
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.training.predict import Predictor

log = logging.getLogger(__name__)

FOLDER = "predictions"
ENCODED = "bertjobs.encoded."
"""Prefix of the columns of `ExampleFormat.encode`, which travel beside those of the rows."""
COUNT_COLUMNS = ("bertjobs.num_tokens", "bertjobs.is_cut")


def run_predict(run: Run[PredictConfig]) -> Outcome:
    """Drive one attempt at predicting the rows of files.

    Raises: DataError, ModelError, ConfigError: the request is wrong. WorkerLost, LeaseLost.
    """
    run.reporter.set_phase("reading the model")
    trained = load_trained(run.config, settings=run.settings, resources=run.resources)
    run.reporter.set_phase("counting rows")
    files = own_files(run.config.data.path, flag="--data", suffixes=PREDICTED_SUFFIXES, content="rows")
    rows = plan_rows(files, run.config.data)
    task = fit_task(trained.task, rows.schema, files[0], is_pair_known=trained.is_pair_known)
    names = list(dict.fromkeys(span.path for span in rows.spans))
    log.info("predict %d rows of %d files in %d spans", rows.num_rows, len(names), len(rows.spans))
    done = PredictProgress(rows.spans, names)
    run.reporter.set_phase("starting workers")
    began = time.monotonic()
    with run.job_dir.new_dir(FOLDER) as folder:
        tables = _predicted(run, trained, rows, task=task, files=names)
        write_tables(tables, PredictionWriter(folder, files=names), run=run, done=done)
        run.reporter.confirm_lease()
    counted = done.metrics(run_s=time.monotonic() - began)
    metrics = {
        "num_rows": done.num_texts,
        "num_left_out": rows.num_rows - done.num_texts,
        "rows_per_s": counted["texts_per_s"],
        **{name: counted[name] for name in ("num_tokens", "num_cut", "run_s")},
    }
    run.job_dir.outputs().write_json("metrics.json", metrics)
    return Outcome(metrics=metrics, artifacts={FOLDER: run.job_dir.path_of(FOLDER)})


class PredictionWriter(PartWriter):
    """Writes the columns of the rows and of their predictions."""

    parquet_options: ClassVar = {"compression": "zstd"}

    def published(self, table: pa.Table) -> pa.Table:
        """Return a worker's table without the columns that only the driver reads."""
        return table.drop_columns([*PLACE_COLUMNS, *COUNT_COLUMNS])


class PredictProgress(EncodeProgress):
    """Counts the rows that have been written."""

    def add(self, table: pa.Table) -> None:
        """Count a table of predicted rows."""
        counted = table.select([*PLACE_COLUMNS, *COUNT_COLUMNS])
        super().add(counted.rename_columns(["file", "line", "num_tokens", "is_cut"]))


class ReadRows:
    """An actor that reads spans of rows and tokenizes them."""

    def __init__(
        self,
        *,
        tokenizer: list[ray.ObjectRef],
        config: PredictConfig,
        task: Task,
        schema: pa.Schema,
        files: Sequence[str],
    ) -> None:
        fail_if_restarted()
        self._tokenizer: Tokenizer = ray.get(tokenizer[0])
        self._data = config.data
        self._format = example_format(task)
        self._schema = schema
        self._number_of = {path: number for number, path in enumerate(files)}

    def __call__(self, spans: pa.Table) -> Iterator[pa.Table]:
        """Yield tables of the rows' columns, `PLACE_COLUMNS`, and the encoded columns."""
        for span in [LineSpan(**row) for row in spans.to_pylist()]:
            number = self._number_of[span.path]
            for table, texts in read_rows(
                span, self._schema, self._data, format=self._format, file_number=number
            ):
                encoded = self._format.encode(self._format.unlabelled(texts), self._tokenizer)
                for name in encoded.column_names:
                    table = table.append_column(f"{ENCODED}{name}", encoded[name])
                yield table


class PredictRows:
    """An actor that runs the model, on a GPU of its own or on its share of a node's cores."""

    def __init__(
        self,
        *,
        model: list[ray.ObjectRef],
        tokenizer: list[ray.ObjectRef],
        task: Task,
        text: TextSection,
        config: PredictConfig,
        grant: Grant,
    ) -> None:
        fail_if_restarted()
        self._task = task
        self._predictor = Predictor(
            ray.get(model[0]).to(set_up_actor(grant)),
            task=task,
            text=text,
            tokenizer=ray.get(tokenizer[0]),
            batch_size=config.train.batch_size,
            precision=config.train.precision,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return a block of rows with their predictions, in their order."""
        of_rows = [name for name in table.column_names if not name.startswith("bertjobs.")]
        encoded_names = [name for name in table.column_names if name.startswith(ENCODED)]
        encoded = table.select(encoded_names).rename_columns([n.removeprefix(ENCODED) for n in encoded_names])
        if not table.num_rows:
            return table.select([*of_rows, *PLACE_COLUMNS])
        arrow = EncodedTable.from_arrow(encoded)
        num_tokens_R, uncut_R = self._predictor.num_tokens(arrow)
        columns = [table[name].to_pylist() for name in self._task.columns.texts]
        texts = [tuple(text or "" for text in row) for row in zip(*columns, strict=True)]
        predicted = with_predictions(
            table.select(of_rows),
            example_format(self._task).unlabelled(texts),
            self._predictor.outputs(arrow),
            task=self._task,
        )
        for name in PLACE_COLUMNS:
            predicted = predicted.append_column(name, table[name])
        counts = (pa.array(num_tokens_R.astype(np.int32)), pa.array(uncut_R > num_tokens_R))
        for name, values in zip(COUNT_COLUMNS, counts, strict=True):
            predicted = predicted.append_column(name, values)
        return predicted


def _predicted(
    run: Run[PredictConfig], trained: TrainedModel, rows: RowFiles, *, task: Task, files: Sequence[str]
) -> Iterator[pa.Table]:
    """Yield the workers' tables, in the order of the rows. Raises: BertjobsError: what a worker raised."""
    # In lists, so that each actor fetches the objects itself: Ray would pin large arguments otherwise.
    given = {"tokenizer": [ray.put(trained.tokenizer)], "config": run.config, "task": task}
    model = {"model": [ray.put(trained.build())], "text": trained.text, "grant": run.grant}
    return compute_spans(
        rows.spans,
        reader=ReadRows,
        reader_arguments=given | {"schema": rows.schema, "files": files},
        worker=PredictRows,
        worker_arguments=given | model,
        grant=run.grant,
    )
