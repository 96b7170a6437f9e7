"""Spans of files through two stages of actors, in order: what the jobs that encode and predict rows share.

    spans -> a reader (actors, Ray Data's CPUs) -> a worker (an actor per worker) -> Parquet, by the driver

Memory is bounded by the blocks in flight. The result appears under its name when all of it is written.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy

from bertjobs.errors import DataError
from bertjobs.jobs.job import Grant
from bertjobs.runs import ray_train
from bertjobs.runs.data.corpus_blocks import bound_pipelines
from bertjobs.runs.reporting import stop_reason
from bertjobs.runs.run_context import Run
from bertjobs.text.lines import LineSpan

BLOCK_BYTES = 1 << 20
"""Size at which blocks between the stages are split: progress is reported, and work is assigned, by block."""


class TableWriter(Protocol):
    """Writes the workers' tables, one after another."""

    def add(self, table: pa.Table) -> None: ...

    def close(self) -> None: ...


class RowProgress(Protocol):
    """Counts the rows that have been written."""

    num_texts: int

    @property
    def num_lines(self) -> int: ...

    def add(self, table: pa.Table) -> None: ...

    def progress(self) -> dict[str, Any]: ...


def compute_spans(
    spans: Sequence[LineSpan],
    *,
    reader: type,
    reader_arguments: Mapping[str, Any],
    worker: type,
    worker_arguments: Mapping[str, Any],
    grant: Grant,
) -> Iterator[pa.Table]:
    """Yield the workers' tables, in the order of the spans. Raises: BertjobsError: what an actor raised."""
    bound_pipelines(cpus=grant.cpus, gpus=grant.gpus)
    ray.data.DataContext.get_current().target_max_block_size = BLOCK_BYTES
    dataset = (
        ray.data.from_items([asdict(span) for span in spans], override_num_blocks=len(spans))
        .map_batches(
            reader,
            fn_constructor_kwargs=dict(reader_arguments),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(max(1, int(grant.data_cpus)), len(spans))),
            num_cpus=min(1.0, grant.data_cpus),
        )
        .map_batches(
            worker,
            fn_constructor_kwargs=dict(worker_arguments),
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


def write_tables(
    tables: Iterable[pa.Table], writer: TableWriter, *, run: Run[Any], done: RowProgress
) -> None:
    """Write the workers' tables as they arrive.

    Raises: DataError: there was no row. Cancelled, Drained, DriverStopped: on request.
    """
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
    if run.reporter.command() == "cancel":  # or it raises: another attempt's rows must stay
        raise stop_reason("cancel")


def set_up_actor(grant: Grant) -> torch.device:
    """Give a worker's actor its share of the node's cores; return its device."""
    fitting = int(len(os.sched_getaffinity(0)) / grant.cpus_per_worker)
    return ray_train.set_up_worker(grant, workers_on_node=min(grant.workers, max(1, fitting)))


def fail_if_restarted() -> None:
    """End the attempt where Ray restarted this actor after it was killed: Ray would do so without end.

    Raises: WorkerLost.
    """
    if ray.get_runtime_context().was_current_actor_reconstructed:
        raise ray_train.WorkerLost("The process that did the work was killed")


@contextmanager
def _pipeline_errors() -> Iterator[None]:
    """Distinguish an error of our code in a worker from a worker that was lost."""
    try:
        with ray_train.task_errors():
            yield
    except ray.exceptions.RayError as e:
        raise ray_train.WorkerLost(f"A worker was lost: {str(e).strip().splitlines()[-1]}") from e
