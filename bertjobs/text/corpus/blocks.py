"""Blocks: the encoded form of a corpus, as Arrow tables and as numpy arrays that view them.

A block is an encoded shard, or several joined: a row per sentence, untruncated. It depends on no objective,
max_len or seed, so it is encoded once and cached under `corpus_key`.

Shape suffixes: S: sentences, D: documents of a block.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bertjobs.config.pretrain import CorpusSection
from bertjobs.storage import sha256_of
from bertjobs.text.corpus.documents import Shard, read_shard
from bertjobs.text.encoding import list_array, one_array
from bertjobs.text.source_file import SourceFile
from bertjobs.text.tokenizer import Tokenizer

CORPUS_ENCODER_VERSION = 1
"""Raise it when the same corpus would be encoded differently."""

_READING = ("column", "document", "sentences", "on_bad_row", "limit_documents", "block_bytes")
"""Fields of the data section that decide what is in the blocks."""
_GOLDEN = 0.6180339887498949
"""Multiples of the golden ratio, modulo 1, are spread evenly however many are taken."""
_DROPPED = b"bertjobs.num_dropped"


@dataclass(frozen=True, kw_only=True)
class BlockInfo:
    """What is in an encoded block."""

    num_documents: int
    num_pairable: int
    """Documents of two sentences or more."""
    num_sentences: int
    num_tokens: int
    num_dropped: int
    """Lines or rows that could not be read and were skipped."""

    @classmethod
    def of(cls, table: pa.Table) -> "BlockInfo":
        """Describe a table of `encode_shard`, or one that was read back from its file."""
        sentences_of_document = np.bincount(table["document"].to_numpy())
        metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
        return cls(
            num_documents=int((sentences_of_document > 0).sum()),
            num_pairable=int((sentences_of_document > 1).sum()),
            num_sentences=table.num_rows,
            num_tokens=sum(len(chunk.flatten()) for chunk in table["ids"].chunks),
            num_dropped=int(metadata[_DROPPED]) if _DROPPED in metadata else 0,
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "BlockInfo":
        return cls(**content)

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def encode_shard(shard: Shard, tokenizer: Tokenizer) -> pa.Table:
    """Encode the sentences of a shard: columns `ids`, lists of uint16 or int32, and `document`, int32.

    Documents are numbered from 0. Sentences of which no wordpiece is left, and documents without any
    sentence, are left out.

    Raises: DataError: see `read_shard`.
    """
    found = read_shard(shard)
    num_sentences = np.fromiter((len(d) for d in found.documents), np.int64, len(found.documents))
    sentences = pa.array((s for d in found.documents for s in d), pa.large_string())
    num_dropped = found.num_dropped
    del found  # frees the texts, which take more memory than anything else here
    ids, offsets = tokenizer.encode_column(sentences)
    is_kept = np.diff(offsets) > 0
    documents = np.repeat(np.arange(len(num_sentences)), num_sentences)[is_kept]
    table = pa.table(
        {
            "ids": list_array(ids, np.append(offsets[:-1][is_kept], offsets[-1:])),
            "document": pa.array(_renumbered(documents), pa.int32()),
        }
    )
    return table.replace_schema_metadata({_DROPPED: str(num_dropped).encode()})


def split_documents(table: pa.Table, *, ratio: float, seed: int) -> dict[str, pa.Table]:
    """Split an encoded shard into `train` and `valid`, the latter a share of its documents, evenly spaced.

    seed: where the even spacing begins. With the number of each shard as its seed, the share is exact over
        many shards, and the first document of the corpus is held out.
    """
    is_valid = (table["document"].to_numpy() * ratio + seed * _GOLDEN) % 1.0 < ratio
    # Only `train` keeps the number of dropped lines, so that they count once.
    valid = table.filter(pa.array(is_valid)).replace_schema_metadata(None)
    return {"train": table.filter(pa.array(~is_valid)), "valid": valid}


def corpus_key(
    files: Sequence[SourceFile], data: CorpusSection, tokenizer: Tokenizer, *, extra: str = ""
) -> str:
    """Return a name for the encoded form of a corpus: 32 hex digits.

    It changes with the content and order of the files, how they are read and cut, the tokenizer, the encoder,
    and `extra` for anything else.
    """
    described = {
        "encoder": CORPUS_ENCODER_VERSION,
        "files": [[file.suffix, file.member, sha256_of(file.path)] for file in files],
        "reading": data.model_dump(include=set(_READING)),
        "tokenizer": tokenizer.fingerprint,
        "extra": extra,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def _renumbered(documents: np.ndarray) -> np.ndarray:
    """Number the distinct values of an ascending array from 0."""
    return np.cumsum(np.diff(documents, prepend=documents[:1]) != 0)


@dataclass(frozen=True, eq=False)
class Block:
    """Documents of sentences of ids. Sentence s is `ids[sentence_offsets[s] : sentence_offsets[s + 1]]`."""

    ids: np.ndarray
    """uint16 or int32, as the vocabulary needs."""
    sentence_offsets: np.ndarray
    """(S + 1) int64: places in `ids`."""
    document_offsets: np.ndarray
    """(D + 1) int64: numbers of sentences."""

    @classmethod
    def from_arrow(cls, table: pa.Table) -> "Block":
        """View a table of `encode_shard`'s columns; one of several chunks is joined first, which copies."""
        lists = one_array(table["ids"])
        offsets = lists.offsets.to_numpy().astype(np.int64)
        documents = table["document"].to_numpy()
        is_first = np.diff(documents, prepend=-1) != 0
        return cls(
            ids=lists.values.to_numpy()[offsets[0] : offsets[-1]],
            sentence_offsets=offsets - offsets[0],
            document_offsets=np.append(np.flatnonzero(is_first), len(documents)),
        )

    @classmethod
    def join(cls, blocks: Sequence["Block"]) -> "Block":
        """Return one block of all documents, in order; a single block is returned as it is."""
        if len(blocks) == 1:
            return blocks[0]
        return cls(
            ids=np.concatenate([block.ids for block in blocks]),
            sentence_offsets=_joined([block.sentence_offsets for block in blocks]),
            document_offsets=_joined([block.document_offsets for block in blocks]),
        )

    @property
    def num_documents(self) -> int:
        return len(self.document_offsets) - 1

    @property
    def num_sentences(self) -> int:
        return len(self.sentence_offsets) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


def group_small_blocks(infos: Sequence[BlockInfo]) -> list[list[int]]:
    """Return which neighbouring blocks to join so that each has two documents: numbers, in order.

    A random second sentence comes from another document of the same block. Empty blocks are left out, and a
    corpus of one document makes one block of it.
    """
    groups: list[list[int]] = []
    num_documents = 2
    for number, info in enumerate(infos):
        if info.num_documents == 0:
            continue
        if num_documents >= 2:
            groups.append([])
            num_documents = 0
        groups[-1].append(number)
        num_documents += info.num_documents
    if len(groups) > 1 and num_documents < 2:
        last = groups.pop()
        groups[-1] += last
    return groups


def _joined(offsets: Sequence[np.ndarray]) -> np.ndarray:
    """Join offsets: each block's begin where the ones of the block before end."""
    begins = np.cumsum([0, *(o[-1] for o in offsets)])
    return np.concatenate([[0], *(o[1:] + begin for o, begin in zip(offsets, begins, strict=False))])
