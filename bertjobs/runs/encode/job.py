"""Encode the lines of files as vectors: the job of `bertjobs submit encode`.

    spans of lines -> ReadLines (actors, Ray Data's CPUs) -> EmbedLines (an actor per worker) -> Parquet

The driver writes the vectors in the order of the lines. Memory is bounded by the blocks in flight. The result
appears under its name when all of it is written.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy

from bertjobs.config import EncodeConfig
from bertjobs.config.sections import TextSection
from bertjobs.errors import DataError
from bertjobs.jobs.job import Grant
from bertjobs.modeling.build import build_pretraining
from bertjobs.runs import ray_train
from bertjobs.runs.data.corpus_blocks import bound_pipelines
from bertjobs.runs.encode.embeddings import FOLDER, EncodeProgress, PartWriter, embeddings_table
from bertjobs.runs.model_source import TrainedEncoder, load_encoder
from bertjobs.runs.reporting import stop_reason
from bertjobs.runs.run_context import Outcome, Run
from bertjobs.text.corpus.files import own_files
from bertjobs.text.lines import LineSpan, plan_lines, read_lines
from bertjobs.text.text_pairs import encode_singles_and_pairs, singles_and_pairs, split_pair
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.truncation import uncut_sequence_lengths
from bertjobs.training.inference import TextEmbedder

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
"""Size at which blocks between the stages are split: progress is reported, and work is assigned, by block."""


def run_encode(run: Run[EncodeConfig]) -> Outcome:
    """Drive one attempt at encoding the lines of files.

    Raises: DataError, ModelError, ConfigError: the request is wrong. WorkerLost, LeaseLost.
    """
    run.reporter.set_phase("reading the model")
    trained = load_encoder(run.config, settings=run.settings, resources=run.resources)
    run.reporter.set_phase("counting lines")
    spans = plan_lines(own_files(run.config.data.path, flag="--data"), run.config.data)
    files = list(dict.fromkeys(span.path for span in spans))
    done = EncodeProgress(spans, files)
    log.info("encode %d lines of %d files in %d spans", done.num_lines, len(files), len(spans))
    run.reporter.set_phase("starting workers")
    began = time.monotonic()
    with run.job_dir.new_dir(FOLDER) as folder:
        _write(_embeddings(run, trained, spans, files), folder, run=run, done=done)
        run.reporter.confirm_lease()
    metrics = done.metrics(run_s=time.monotonic() - began) | {"dim": trained.loaded.config.hidden_size}
    run.job_dir.outputs().write_json("metrics.json", metrics)
    return Outcome(metrics=metrics, artifacts={FOLDER: run.job_dir.path_of(FOLDER)})


def _write(tables: Iterable[pa.Table], folder: Path, *, run: Run[EncodeConfig], done: EncodeProgress) -> None:
    """Write the workers' tables as they arrive.

    Raises: DataError: no line had a text. Cancelled, Drained, DriverStopped: on request.
    """
    writer = PartWriter(folder, files=done.files)
    for table in tables:
        writer.add(table)
        done.add(table)
        run.reporter.progress(done.progress())
        if asked := run.reporter.command():  # raises where the lease is lost, as every report does
            raise stop_reason(asked)
    writer.close()
    if not done.num_texts:
        raise DataError(
            f"--data {run.config.data.path}: all of its {done.num_lines} lines are blank or broken",
            hint="Give files that contain text.",
        )
    if run.reporter.command() == "cancel":  # or it raises: another attempt's vectors must stay
        raise stop_reason("cancel")


class ReadLines:
    """An actor that reads spans of lines and tokenizes them."""

    def __init__(self, *, tokenizer: list[ray.ObjectRef], config: EncodeConfig, files: Sequence[str]) -> None:
        _fail_if_restarted()
        self._tokenizer: Tokenizer = ray.get(tokenizer[0])
        self._data = config.data
        self._separator = config.text.pair_separator
        self._number_of = {path: number for number, path in enumerate(files)}

    def __call__(self, spans: pa.Table) -> Iterator[pa.Table]:
        """Yield tables of `file` (its number), `line`, `text`, and the ids `a` and `b`."""
        split = partial(split_pair, separator=self._separator)
        for span in [LineSpan(**row) for row in spans.to_pylist()]:
            for lines in read_lines(span, self._data, check=split):
                pairs = [split(text) for text in lines["text"].to_pylist()]
                encoded = encode_singles_and_pairs(pairs, self._tokenizer)
                file = pa.array(np.full(lines.num_rows, self._number_of[span.path], dtype=np.int32))
                columns = {"file": file, "line": lines["line"], "text": lines["text"]}
                yield pa.table(columns | {"a": encoded["a"], "b": encoded["b"]})


class EmbedLines:
    """An actor that runs the encoder, on a GPU of its own or on its share of a node's cores."""

    def __init__(
        self,
        *,
        encoder: list[ray.ObjectRef],
        tokenizer: list[ray.ObjectRef],
        text: TextSection,
        config: EncodeConfig,
        grant: Grant,
    ) -> None:
        _fail_if_restarted()
        fitting = int(len(os.sched_getaffinity(0)) / grant.cpus_per_worker)
        device = ray_train.set_up_worker(grant, workers_on_node=min(grant.workers, max(1, fitting)))
        self._embedder = TextEmbedder(
            ray.get(encoder[0]).to(device),
            text=text,
            tokenizer=ray.get(tokenizer[0]),
            pooling=config.model.pooling,
            batch_size=config.train.batch_size,
            precision=config.train.precision,
        )

    def __call__(self, lines: pa.Table) -> pa.Table:
        """Return the vectors of a block of lines, in their order."""
        vectors_RD = np.empty((lines.num_rows, self._embedder.dim), dtype=np.float32)
        num_tokens_R, uncut_R = np.empty((2, lines.num_rows), dtype=np.int64)
        for rows, part in singles_and_pairs(lines):
            vectors_RD[rows] = self._embedder.vectors(part)
            num_tokens_R[rows] = self._embedder.lengths(part)
            uncut_R[rows] = uncut_sequence_lengths(part.lengths_a, part.lengths_b)
        return embeddings_table(
            file=lines["file"],
            lines=lines,
            num_tokens_R=num_tokens_R,
            is_cut_R=uncut_R > num_tokens_R,
            vectors_RD=vectors_RD,
        )


def _embeddings(
    run: Run[EncodeConfig], trained: TrainedEncoder, spans: Sequence[LineSpan], files: Sequence[str]
) -> Iterator[pa.Table]:
    """Yield the workers' tables, in the order of the lines. Raises: BertjobsError: what a worker raised."""
    grant = run.grant
    bound_pipelines(cpus=grant.cpus, gpus=grant.gpus)
    ray.data.DataContext.get_current().target_max_block_size = BLOCK_BYTES
    encoder = build_pretraining(trained.loaded, seed=0).bert
    # In lists, so that each actor fetches the objects itself: Ray would pin large arguments otherwise.
    given = {"tokenizer": [ray.put(trained.tokenizer)], "config": run.config}
    reading = given | {"files": files}
    embedding = given | {"encoder": [ray.put(encoder)], "text": trained.text, "grant": grant}
    dataset = (
        ray.data.from_items([asdict(span) for span in spans], override_num_blocks=len(spans))
        .map_batches(
            ReadLines,
            fn_constructor_kwargs=reading,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(max(1, int(grant.data_cpus)), len(spans))),
            num_cpus=min(1.0, grant.data_cpus),
        )
        .map_batches(
            EmbedLines,
            fn_constructor_kwargs=embedding,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(grant.workers, len(spans))),
            num_cpus=grant.cpus_per_worker,
            num_gpus=grant.gpus_per_worker,
        )
    )
    with _pipeline_errors():
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            if table.num_rows:
                yield table


@contextmanager
def _pipeline_errors() -> Iterator[None]:
    """Distinguish an error of our code in a worker from a worker that was lost."""
    try:
        with ray_train.task_errors():
            yield
    except ray.exceptions.RayError as e:
        raise ray_train.WorkerLost(f"A worker was lost: {str(e).strip().splitlines()[-1]}") from e


def _fail_if_restarted() -> None:
    """End the attempt where Ray restarted this actor after it was killed: Ray would do so without end.

    Raises: WorkerLost.
    """
    if ray.get_runtime_context().was_current_actor_reconstructed:
        raise ray_train.WorkerLost("The process that did the work was killed")
