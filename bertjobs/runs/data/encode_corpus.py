"""Encode a corpus with Ray Data, one task per shard; each task writes its blocks where all nodes read them.

Memory is bounded by the shards in flight, whatever the size of the corpus, and the driver sees no text and no
block: it hands out shards, receives a record of each, and publishes the manifest when all are there. What was
encoded stays when the driver, a node or the head of Ray is lost. Documents that are held out for validation
go into blocks of their own. Where the files are: see `corpus_blocks`.
"""

import json
import logging
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data

from bertjobs.config.pretrain import CorpusSection
from bertjobs.errors import DataError, StorageError
from bertjobs.runs.cache_limit import limit_shared_corpora, note_use
from bertjobs.runs.data.corpus_blocks import (
    MANIFEST,
    CorpusFolder,
    StoredBlocks,
    bound_pipelines,
    encode_row,
)
from bertjobs.runs.ray_train import task_errors
from bertjobs.runs.run_context import Reporter, Run
from bertjobs.settings import Settings
from bertjobs.text.corpus.blocks import BlockInfo, corpus_key
from bertjobs.text.corpus.documents import Shard
from bertjobs.text.corpus.shards import plan_shards
from bertjobs.text.source_file import SourceFile
from bertjobs.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_SPLITS = ("train", "valid")
_REPORT_INTERVAL_S = 1.0


def encode_corpus(
    files: Sequence[SourceFile],
    run: Run[Any],
    *,
    data: CorpusSection,
    tokenizer: Tokenizer,
    valid_ratio: float = 0.0,
) -> dict[str, StoredBlocks]:
    """Return the blocks of `train`, and of `valid`: the documents that are held out, by `valid_ratio`.

    Blocks that exist are not made again: of the same files, encoded by the same tokenizer before.

    Raises: DataError: a file is broken or empty, or has too few documents to hold any out.
        StorageError: no space for the blocks.
    """
    key = corpus_key(files, data, tokenizer, extra=f"{valid_ratio:g} held out")
    folder = CorpusFolder(root=run.settings.encoded_corpora, name=f"corpus-{key}")
    manifest = folder.read_json(MANIFEST)
    if manifest is not None:
        log.info("encoded corpus: %s was encoded before", folder.uri)
        _note_use(folder, manifest)
    else:
        shards = plan_shards(files, data)
        log.info("encoded corpus: %d shards, written to %s", len(shards), folder.uri)
        # Nothing else uses the CPUs of the grant yet: the workers start when the corpus is encoded.
        records = _encode(shards, folder, tokenizer, ratio=valid_ratio, cpus=run.grant.cpus)
        manifest = _collect(records, len(shards), reporter=run.reporter)
        folder.write_json(MANIFEST, manifest)
    _limit_shared(run.settings)
    blocks = {split: _stored(folder, manifest[split]) for split in _SPLITS}
    if valid_ratio and not (blocks["train"].infos and blocks["valid"].infos):
        raise DataError(
            f"The corpus has too few documents to hold out {valid_ratio:g} of them",
            hint="Give a validation corpus (--valid), a larger --valid-ratio, or smaller --document.",
        )
    return blocks


def _note_use(folder: CorpusFolder, manifest: dict[str, Any]) -> None:
    """Renew the age of a corpus, so that it is not removed while we train."""
    if "://" not in folder.uri:
        note_use(Path(folder.uri))
    try:
        folder.write_json(MANIFEST, manifest)
    except StorageError as e:  # another user's
        log.debug("%s: its use is not recorded: %s", folder.uri, e)


def _limit_shared(settings: Settings) -> None:
    """Remove old corpora where several nodes share them; those in a node's own cache go with the cache."""
    root, max_mb = settings.encoded_corpora, settings.max_cache_mb
    if root == str(settings.cache / "encoded"):
        return
    try:
        limit_shared_corpora(
            root,
            manifest=MANIFEST,
            keep_s=settings.keep_cache_s,
            max_bytes=None if max_mb is None else max_mb * 1e6,
            now_s=time.time(),
        )
    except StorageError as e:  # the next pretraining tries again
        log.warning("old encoded corpora are not removed: %s", e)


def _encode(
    shards: list[Shard], folder: CorpusFolder, tokenizer: Tokenizer, *, ratio: float, cpus: float
) -> Iterator[Mapping[str, Any]]:
    """Yield the record of each shard, in order."""
    bound_pipelines(cpus=cpus)
    rows = [{"shard": pickle.dumps(shard)} for shard in shards]  # our own; no Arrow type holds one
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        encode_row,
        fn_kwargs={"folder": folder, "tokenizer": tokenizer, "ratio": ratio},
        num_cpus=min(1.0, cpus),
    )
    with task_errors():
        for row in dataset.iter_rows():
            yield json.loads(row["record"])


def _collect(
    records: Iterator[Mapping[str, Any]], num_shards: int, *, reporter: Reporter
) -> dict[str, list[Any]]:
    """Return the manifest: the blocks of each split, in the order of the corpus. Report the progress."""
    manifest: dict[str, list[Any]] = {split: [] for split in _SPLITS}
    reported_at = time.monotonic()
    for num_done, record in enumerate(records, start=1):
        for split, entries in manifest.items():
            entries += [record[split]] if split in record else []
        if time.monotonic() - reported_at >= _REPORT_INTERVAL_S:
            reported_at = time.monotonic()
            reporter.set_phase(f"encoding the corpus, {num_done} of {num_shards} shards")
    return manifest


def _stored(folder: CorpusFolder, entries: Sequence[Mapping[str, Any]]) -> StoredBlocks:
    return StoredBlocks(
        folder=folder,
        infos=tuple(BlockInfo.from_json(entry["info"]) for entry in entries),
        files=tuple(entry["file"] for entry in entries),
    )
