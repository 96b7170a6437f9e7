"""Encode a corpus with Ray Data, one task per shard, into Arrow blocks on disk.

Memory is bounded by the blocks in flight, whatever the size of the corpus: a task reads its own shard of the
files, and a block is written before the next one is requested. Documents that are held out for validation go
into blocks of their own.

    <cache>/encoded/corpus-<key>/train-000000.arrow, valid-000000.arrow, ...
    <cache>/encoded/corpus-<key>/blocks.json         their contents; the folder appears when all are written
"""

import json
import logging
import pickle
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from bertjobs.config.pretrain import CorpusSection
from bertjobs.errors import DataError, StorageError
from bertjobs.runs.data.corpus_blocks import StoredBlocks, bound_pipelines, encode_row
from bertjobs.runs.ray_train import task_errors
from bertjobs.runs.run_context import Run
from bertjobs.text.corpus.blocks import BlockInfo, corpus_key
from bertjobs.text.corpus.documents import Shard
from bertjobs.text.corpus.shards import plan_shards
from bertjobs.text.encoding import write_arrow
from bertjobs.text.source_file import SourceFile
from bertjobs.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_INDEX = "blocks.json"
_SPLITS = ("train", "valid")


def encode_corpus(
    files: Sequence[SourceFile],
    run: Run[Any],
    *,
    data: CorpusSection,
    tokenizer: Tokenizer,
    valid_ratio: float = 0.0,
) -> dict[str, StoredBlocks]:
    """Return the blocks of `train`, and of `valid`: the documents that are held out, by `valid_ratio`.

    They come from the cache where the same files were encoded by the same tokenizer before.

    Raises: DataError: a file is broken or empty, or has too few documents to hold any out.
        StorageError: no space for the blocks.
    """
    key = corpus_key(files, data, tokenizer, extra=f"{valid_ratio:g} held out")
    folder = run.settings.cache / "encoded" / f"corpus-{key}"
    if (folder / _INDEX).exists():
        log.info("encoded corpus: %s, from the cache", folder.name)
    else:
        encoded = _encoded(plan_shards(files, data), tokenizer, ratio=valid_ratio, cpus=run.grant.data_cpus)
        _write(encoded, folder)
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    blocks = {split: _stored(folder, index[split]) for split in _SPLITS}
    if valid_ratio and not (blocks["train"].infos and blocks["valid"].infos):
        raise DataError(
            f"The corpus has too few documents to hold out {valid_ratio:g} of them",
            hint="Give a validation corpus (--valid), a larger --valid-ratio, or smaller --document.",
        )
    return blocks


def _encoded(
    shards: list[Shard], tokenizer: Tokenizer, *, ratio: float, cpus: float
) -> Iterator[Mapping[str, Any]]:
    """Yield, shard after shard, the Arrow file of each split and its contents."""
    bound_pipelines(cpus=cpus)
    rows = [{"shard": pickle.dumps(shard)} for shard in shards]  # our own; no Arrow type holds one
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        encode_row, fn_kwargs={"tokenizer": tokenizer, "ratio": ratio}, num_cpus=min(1.0, cpus)
    )
    with task_errors():
        yield from dataset.iter_rows()


def _write(encoded: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write the blocks, and publish them by a rename. Raises: StorageError: no space, no permission."""
    scratch = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    index: dict[str, list[dict[str, Any]]] = {split: [] for split in _SPLITS}
    try:
        for number, row in enumerate(encoded):
            for split, entries in index.items():
                info = json.loads(row[f"{split}_info"])
                if info["num_sentences"]:
                    entries.append({"file": f"{split}-{number:06d}.arrow", "info": info})
                    write_arrow(pa.ipc.open_file(row[split]).read_all(), scratch / entries[-1]["file"])
        _publish(scratch, folder, index)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, folder: Path, index: Mapping[str, Any]) -> None:
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        scratch.rename(folder)
    except OSError as e:
        if not (folder / _INDEX).exists():  # else another job encoded the same meanwhile
            raise StorageError(
                f"The encoded corpus cannot be written to {folder}: {e.strerror}",
                hint="Free room there, or set BERTJOBS_CACHE to another place.",
            ) from e


def _stored(folder: Path, entries: Sequence[Mapping[str, Any]]) -> StoredBlocks:
    return StoredBlocks(
        infos=tuple(BlockInfo.from_json(entry["info"]) for entry in entries),
        files=tuple(folder / entry["file"] for entry in entries),
        node_id=ray.get_runtime_context().get_node_id(),
    )
