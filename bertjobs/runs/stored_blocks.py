"""Blocks of an encoded corpus for whoever trains, wherever: a `training.BlockSource` over Arrow files."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bertjobs.text.blocks import Block, merge_small
from bertjobs.text.corpus_encoding import BlockInfo
from bertjobs.text.encoding import read_ipc


@dataclass(frozen=True, kw_only=True)
class StoredBlocks:
    """Blocks in files on one node; small neighbours are joined, so that each block has two documents.

    On that node files are mapped into memory, which all its workers share; elsewhere they come through Ray's
    object store, which keeps one copy per node.
    """

    infos: tuple[BlockInfo, ...]
    files: tuple[tuple[Path, ...], ...]
    node_id: str

    @classmethod
    def of(cls, infos: Sequence[BlockInfo], *, files: Sequence[Path], node_id: str) -> "StoredBlocks":
        """Make blocks of files, given what is in each."""
        groups = merge_small(infos)
        return cls(
            infos=tuple(_sum([infos[i] for i in group]) for group in groups),
            files=tuple(tuple(files[i] for i in group) for group in groups),
            node_id=node_id,
        )

    def get(self, number: int) -> Block:
        """Return a block. Raises: StorageError: its file was removed or damaged."""
        files = self.files[number]
        if ray.get_runtime_context().get_node_id() == self.node_id:
            tables = [read_ipc(file) for file in files]
        else:
            there = NodeAffinitySchedulingStrategy(self.node_id, soft=False)
            reading = ray.remote(num_cpus=0, scheduling_strategy=there)(read_ipc)
            tables = ray.get([reading.remote(file) for file in files])
        return Block.join([Block.from_arrow(table) for table in tables])


def _sum(infos: Sequence[BlockInfo]) -> BlockInfo:
    return BlockInfo(**{f.name: sum(getattr(info, f.name) for info in infos) for f in fields(BlockInfo)})
