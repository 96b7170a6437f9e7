"""The blocks of an encoded corpus: made by Ray Data tasks, stored as Arrow files, read where training runs.

Also sets up our Ray Data pipelines. Imports no torch: such a task lives for a moment.
"""

import json
import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ExecutionResources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bertjobs.text.corpus.blocks import Block, BlockInfo, encode_shard, split_documents
from bertjobs.text.corpus.documents import Shard
from bertjobs.text.encoding import read_arrow
from bertjobs.text.tokenizer import Tokenizer


def encode_row(row: dict[str, Any], *, tokenizer: Tokenizer, ratio: float) -> dict[str, Any]:
    """Encode the pickled `row["shard"]`; return the Arrow file of each split, and its `BlockInfo` as JSON."""
    shard: Shard = pickle.loads(row["shard"])
    parts = split_documents(encode_shard(shard, tokenizer), ratio=ratio, seed=shard.number)
    files = {split: _as_file(part) for split, part in parts.items()}
    return files | {
        f"{split}_info": json.dumps(BlockInfo.of(part).to_json()) for split, part in parts.items()
    }


def _as_file(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def bound_pipelines(*, cpus: float, gpus: float = 0.0) -> None:
    """Limit this process's Ray Data pipelines to these CPUs and GPUs, and keep the order of the inputs."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(cpu=cpus, gpu=gpus)
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # a broken file is reported in our own words
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised as well


@dataclass(frozen=True, kw_only=True)
class StoredBlocks:
    """A `training.BlockSource`: blocks in files on one node.

    On that node files are mapped into memory, which all its workers share; elsewhere they come through Ray's
    object store, which keeps one copy per node.
    """

    infos: tuple[BlockInfo, ...]
    files: tuple[Path, ...]
    node_id: str

    def get(self, number: int) -> Block:
        """Return a block. Raises: StorageError: its file was removed or damaged."""
        if ray.get_runtime_context().get_node_id() == self.node_id:
            return Block.from_arrow(read_arrow(self.files[number]))
        there = NodeAffinitySchedulingStrategy(self.node_id, soft=False)
        reading = ray.remote(num_cpus=0, scheduling_strategy=there)(read_arrow)
        return Block.from_arrow(ray.get(reading.remote(self.files[number])))
