"""An encoded block of a corpus as numpy arrays over Arrow's own memory, and blocks put together.

S: sentences, D: documents of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bertjobs.text.corpus_encoding import BlockInfo
from bertjobs.text.encoding import one_array


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
        """View a table of `encode_span`'s columns; one of several chunks is joined first, which copies."""
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


def merge_small(infos: Sequence[BlockInfo]) -> list[list[int]]:
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
    """Put offsets together, each going on where the one before ends."""
    begins = np.cumsum([0, *(o[-1] for o in offsets)])
    return np.concatenate([[0], *(o[1:] + begin for o, begin in zip(offsets, begins, strict=False))])
