"""Small corpora for the tests: files, and encoded blocks of known shape."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bertjobs.config.pretrain import CorpusSection
from bertjobs.text.corpus.blocks import Block, BlockInfo, encode_shard, group_small_blocks
from bertjobs.text.corpus.documents import Shard, read_shard
from bertjobs.text.corpus.shards import plan_shards
from bertjobs.text.source_file import SourceFile
from bertjobs.text.tokenizer import Tokenizer


@dataclass
class Vocabulary:
    """Ids below 5 are special; of the others every third goes on a word."""

    vocab_size: int = 200
    pad_id: int = 0
    unk_id: int = 1
    cls_id: int = 2
    sep_id: int = 3
    mask_id: int = 4
    special_ids: np.ndarray = field(default_factory=lambda: np.arange(5))

    @property
    def is_continuation_V(self) -> np.ndarray:
        ids = np.arange(self.vocab_size)
        return (ids % 3 == 0) & (ids >= 5)


def section(**given: object) -> CorpusSection:
    return CorpusSection.model_validate({"corpus": "given as files", **given})


def sources(*paths: Path) -> tuple[SourceFile, ...]:
    return tuple(SourceFile(path) for path in paths)


def shards_of(*paths: Path, **given: object) -> list[Shard]:
    return plan_shards(sources(*paths), section(**given))


def documents_of(*paths: Path, **given: object) -> list[list[str]]:
    """Return the documents of all shards, in order."""
    return [document for shard in shards_of(*paths, **given) for document in read_shard(shard).documents]


def encoded(*paths: Path, tokenizer: Tokenizer, **given: object) -> list[Block]:
    """Return the blocks of a corpus, those of one document joined with their neighbours."""
    tables = [encode_shard(shard, tokenizer) for shard in shards_of(*paths, **given)]
    groups = group_small_blocks([BlockInfo.of(table) for table in tables])
    return [Block.join([Block.from_arrow(tables[i]) for i in group]) for group in groups]


def block_of(documents: Sequence[Sequence[int]], *, first_id: int = 5) -> Block:
    """Make a block from the sentences' lengths, document by document; ids count up from `first_id`."""
    lengths = [length for document in documents for length in document]
    return Block(
        ids=np.arange(first_id, first_id + sum(lengths), dtype=np.int32),
        sentence_offsets=np.cumsum([0, *lengths]),
        document_offsets=np.cumsum([0, *(len(document) for document in documents)]),
    )


def random_block(rng: np.random.Generator, *, num_documents: int, vocab_size: int = 200) -> Block:
    """Make a block of random ids of no special token: sentences of 1 to 40, documents of 1 to 12."""
    documents = [rng.integers(1, 41, rng.integers(1, 13)).tolist() for _ in range(num_documents)]
    block = block_of(documents)
    ids = rng.integers(5, vocab_size, block.num_tokens).astype(np.int32)
    return Block(ids=ids, sentence_offsets=block.sentence_offsets, document_offsets=block.document_offsets)
