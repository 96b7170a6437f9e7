"""Encode the texts of a split with Ray Data, once: a later run reads them from the Arrow cache.

Apart from `rows`, which needs no Ray.
"""

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from bertjobs.runs.cache_limit import note_use
from bertjobs.runs.data.corpus_blocks import bound_pipelines
from bertjobs.runs.data.rows import Rows
from bertjobs.runs.run_context import Run
from bertjobs.text.datasets.examples import ExampleFormat, example_format
from bertjobs.text.datasets.task import Task
from bertjobs.text.encoding import read_arrow, write_arrow
from bertjobs.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

ROWS_PER_BLOCK = 32_768


def encode(rows: Rows, run: Run[Any], *, task: Task, tokenizer: Tokenizer) -> ray.ObjectRef:
    """Return a reference to the encoded rows: from the cache, or from a pipeline that starts now.

    The reference can be passed on before the encoding is done.
    """
    path = run.settings.cache / "encoded" / f"{rows.key(task, tokenizer)}.arrow"
    if path.exists():
        log.info("encoded rows: %s, from the cache", path.name)
        note_use(path)
        return ray.put(read_arrow(path))
    pipeline = ray.remote(num_cpus=0, max_retries=0)(_encode_with_ray_data)
    return pipeline.remote(rows.table, example_format(task), tokenizer, str(path), run.grant.data_cpus)


def _encode_with_ray_data(
    table: pa.Table, examples: ExampleFormat, tokenizer: Tokenizer, path: str, data_cpus: float
) -> pa.Table:
    """Tokenize blocks on the CPUs reserved for data, keep their order, and publish them in the cache."""
    bound_pipelines(cpus=data_cpus)
    dataset = ray.data.from_arrow(_blocks(table)).map_batches(
        examples.encode,
        fn_kwargs={"tokenizer": tokenizer},
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        num_cpus=min(1.0, data_cpus),
    )
    encoded = pa.concat_tables(ray.get(dataset.to_arrow_refs()))
    assert pc.count_distinct(encoded["index"]).as_py() == table.num_rows, "a row was lost while encoding"
    write_arrow(encoded, Path(path))
    return encoded.combine_chunks()


def _blocks(table: pa.Table) -> list[pa.Table]:
    return [table.slice(start, ROWS_PER_BLOCK) for start in range(0, table.num_rows, ROWS_PER_BLOCK)]
