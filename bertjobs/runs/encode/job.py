"""Encode the lines of files as vectors: the job of `bertjobs submit encode`.

    spans of lines -> ReadLines (actors, Ray Data's CPUs) -> EmbedLines (an actor per worker) -> Parquet

The driver writes the vectors in the order of the lines. Memory is bounded by the blocks in flight. The result
appears under its name when all of it is written.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import ray
import ray.data

from bertjobs.config import EncodeConfig
from bertjobs.config.sections import TextSection
from bertjobs.jobs.job import Grant
from bertjobs.modeling.build import build_pretraining
from bertjobs.runs.encode.embeddings import FOLDER, EncodeProgress, PartWriter, embeddings_table
from bertjobs.runs.encode.pipeline import compute_spans, fail_if_restarted, set_up_actor, write_tables
from bertjobs.runs.model_source import TrainedEncoder, load_encoder
from bertjobs.runs.run_context import Outcome, Run
from bertjobs.text.corpus.files import own_files
from bertjobs.text.lines import LineSpan, plan_lines, read_lines
from bertjobs.text.text_pairs import encode_singles_and_pairs, singles_and_pairs, split_pair
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.truncation import uncut_sequence_lengths
from bertjobs.training.inference import TextEmbedder

log = logging.getLogger(__name__)


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
        writer = PartWriter(folder, files=files)
        write_tables(_embeddings(run, trained, spans, files), writer, run=run, done=done)
        run.reporter.confirm_lease()
    metrics = done.metrics(run_s=time.monotonic() - began) | {"dim": trained.loaded.config.hidden_size}
    run.job_dir.outputs().write_json("metrics.json", metrics)
    return Outcome(metrics=metrics, artifacts={FOLDER: run.job_dir.path_of(FOLDER)})


class ReadLines:
    """An actor that reads spans of lines and tokenizes them."""

    def __init__(self, *, tokenizer: list[ray.ObjectRef], config: EncodeConfig, files: Sequence[str]) -> None:
        fail_if_restarted()
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
        fail_if_restarted()
        self._embedder = TextEmbedder(
            ray.get(encoder[0]).to(set_up_actor(grant)),
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
    encoder = build_pretraining(trained.loaded, seed=0).bert
    # In lists, so that each actor fetches the objects itself: Ray would pin large arguments otherwise.
    given = {"tokenizer": [ray.put(trained.tokenizer)], "config": run.config}
    return compute_spans(
        spans,
        reader=ReadLines,
        reader_arguments=given | {"files": files},
        worker=EmbedLines,
        worker_arguments=given | {"encoder": [ray.put(encoder)], "text": trained.text, "grant": run.grant},
        grant=run.grant,
    )
