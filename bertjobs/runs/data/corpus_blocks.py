"""The blocks of an encoded corpus: written by the Ray Data tasks that make them, read where training runs.

    <encoded corpora>/corpus-<key>/train-000000.arrow, valid-000000.arrow    blocks of shard 0
    <encoded corpora>/corpus-<key>/shard-000000.json                         its record: written last
    <encoded corpora>/corpus-<key>/blocks.json                               the manifest: all records

The folder is on a local path that all nodes see, or at any address of `pyarrow.fs`. A shard whose record
exists is not encoded again, so an encoding that was interrupted continues with the shards that are missing.

Also sets up our Ray Data pipelines. Imports no torch: such a task lives for a moment.
"""

import json
import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ExecutionResources

from bertjobs.errors import StorageError
from bertjobs.storage import JobDir
from bertjobs.text.corpus.blocks import Block, BlockInfo, encode_shard, split_documents
from bertjobs.text.corpus.documents import Shard
from bertjobs.text.tokenizer import Tokenizer

MANIFEST = "blocks.json"


@dataclass(frozen=True, kw_only=True)
class CorpusFolder:
    """The place of one encoded corpus, the same seen from all nodes."""

    root: str
    """A folder or an address."""
    name: str

    @property
    def uri(self) -> str:
        return self._files.uri

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a record or the manifest; None where it was not written, or not to its end."""
        if not self._files.exists(name):
            return None
        try:
            return dict(json.loads(self._files.read_bytes(name)))
        except ValueError:  # some file systems show a file that is still being written
            return None

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Publish a record or the manifest. Raises: StorageError: no space, no permission."""
        self._write(name, json.dumps(value).encode())

    def write_block(self, name: str, table: pa.Table) -> None:
        """Write a block in one record batch. Raises: StorageError: no space, no permission."""
        sink = pa.BufferOutputStream()
        table = table.combine_chunks()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=max(table.num_rows, 1))
        self._write(name, sink.getvalue().to_pybytes())

    def read_block(self, name: str) -> pa.Table:
        """Read a block: mapped into memory from a folder, as all workers of a node share its pages; from an
        address it is copied.

        Raises: StorageError: it was removed or is damaged.
        """
        try:
            if self._files.is_remote:
                return pa.ipc.open_file(pa.py_buffer(self._files.read_bytes(name))).read_all()
            return pa.ipc.open_file(pa.memory_map(str(Path(self._files.path_of(name))))).read_all()
        except (pa.ArrowException, OSError) as e:
            raise StorageError(
                f"The block {self._files.path_of(name)} of the encoded corpus cannot be read: "
                f"{str(e).splitlines()[0]}",
                hint=f"Remove {self.uri}, and `bertjobs retry` encodes the corpus again.",
            ) from e

    def _write(self, name: str, content: bytes) -> None:
        try:
            self._files.write_bytes(name, content)
        except StorageError as e:
            raise StorageError(
                f"The encoded corpus cannot be written: {e}",
                hint="Free space there, or set BERTJOBS_ENCODED to another place.",
                may_pass=e.may_pass,
            ) from e

    @property
    def _files(self) -> JobDir:
        return JobDir(self.root, self.name)


@dataclass(frozen=True, kw_only=True)
class StoredBlocks:
    """A `training.BlockSource`: each rank reads the blocks that it needs from their folder by itself."""

    folder: CorpusFolder
    infos: tuple[BlockInfo, ...]
    files: tuple[str, ...]

    def get(self, number: int) -> Block:
        """Return a block. Raises: StorageError: its file was removed or damaged."""
        return Block.from_arrow(self.folder.read_block(self.files[number]))


def encode_row(
    row: dict[str, Any], *, folder: CorpusFolder, tokenizer: Tokenizer, ratio: float
) -> dict[str, Any]:
    """Write the blocks of the pickled `row["shard"]`, unless they exist; return their record as JSON.

    Only the record goes to the driver. Two tasks may encode the same shard (two jobs with one corpus, or a
    task that Ray repeats): each file is replaced as a whole, by the same content.

    Raises: DataError: see `encode_shard`. StorageError: no space, no permission.
    """
    shard: Shard = pickle.loads(row["shard"])
    record = f"shard-{shard.number:06d}.json"
    entries = folder.read_json(record)
    if entries is None:
        entries = {}
        parts = split_documents(encode_shard(shard, tokenizer), ratio=ratio, seed=shard.number)
        for split, part in parts.items():
            info = BlockInfo.of(part)
            if info.num_sentences:
                file = f"{split}-{shard.number:06d}.arrow"
                folder.write_block(file, part)
                entries[split] = {"file": file, "info": info.to_json()}
        folder.write_json(record, entries)
    return {"record": json.dumps(entries)}


def bound_pipelines(*, cpus: float, gpus: float = 0.0) -> None:
    """Limit this process's Ray Data pipelines to these CPUs and GPUs, and keep the order of the inputs."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(cpu=cpus, gpu=gpus)
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # a broken file is reported in our own words
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised as well
