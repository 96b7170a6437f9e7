"""Blocks of an encoded corpus for whoever trains, wherever: a `training.BlockSource` over Arrow files."""

from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bertjobs.text.blocks import Block
from bertjobs.text.corpus_encoding import BlockInfo
from bertjobs.text.encoding import read_ipc


@dataclass(frozen=True, kw_only=True)
class StoredBlocks:
    """Blocks in files on one node.

    On that node files are mapped into memory, which all its workers share; elsewhere they come through Ray's
    object store, which keeps one copy per node.
    """

    infos: tuple[BlockInfo, ...]
    files: tuple[Path, ...]
    node_id: str

    def get(self, number: int) -> Block:
        """Return a block. Raises: StorageError: its file was removed or damaged."""
        if ray.get_runtime_context().get_node_id() == self.node_id:
            return Block.from_arrow(read_ipc(self.files[number]))
        there = NodeAffinitySchedulingStrategy(self.node_id, soft=False)
        reading = ray.remote(num_cpus=0, scheduling_strategy=there)(read_ipc)
        return Block.from_arrow(ray.get(reading.remote(self.files[number])))
