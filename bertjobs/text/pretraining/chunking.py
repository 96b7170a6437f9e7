"""Cut a block into the chunks that examples are made from, once per block: pairs of neighbouring sentences,
runs of sentences that fill a sequence, or windows over one stream of tokens.

What is chosen inside a chunk (where it is split, which other segment it gets) changes from epoch to epoch and
is in `pairing`. Knows no seed and no epoch.

A piece is a sentence, or a part of a sentence that is longer than a sequence.

Shape suffixes: P: pieces, D: documents, S: sentences of a block. E: examples, one per chunk.
"""

from dataclasses import dataclass

import numpy as np

from bertjobs.text import ragged
from bertjobs.text.corpus.blocks import Block
from bertjobs.text.ragged import Int64s


@dataclass(frozen=True, kw_only=True)
class ChunkedBlock:
    """A block cut into pieces, and its chunks: example e is made from the pieces `begins[e]` to `ends[e]`."""

    tokens: np.ndarray
    """Ids of the whole block."""
    offsets: Int64s
    """(P + 1): where the pieces begin in `tokens`."""
    document_offsets: Int64s
    """(D + 1): where the documents begin, in numbers of pieces."""
    document_of: Int64s
    """(P): the document of each piece."""
    begins: Int64s
    """(E): first piece of each chunk."""
    ends: Int64s
    """(E): one after the last piece. A chunk has at least two pieces of one document; in a stream, one."""

    @property
    def num_examples(self) -> int:
        return len(self.begins)

    @property
    def num_pieces(self) -> int:
        return len(self.offsets) - 1


def chunk_sentence_pairs(block: Block) -> ChunkedBlock:
    """Make a chunk of every sentence and its next one, if that is in the same document.

    Source: Dive into Deep Learning, section 15.9 (The Dataset for Pretraining BERT),
    `_get_nsp_data_from_paragraph`.
    """
    document_of = _document_of(block.document_offsets)
    begins = np.flatnonzero(document_of[1:] == document_of[:-1])
    return ChunkedBlock(
        tokens=block.ids,
        offsets=block.sentence_offsets,
        document_offsets=block.document_offsets,
        document_of=document_of,
        begins=begins,
        ends=begins + 2,
    )


def chunk_filled(block: Block, *, budget: int) -> ChunkedBlock:
    """Make chunks of as many consecutive sentences of a document as `budget` tokens hold, but at least two.

    Where the last sentence of a document would be a chunk by itself, the chunk gets the sentence before it as
    well. Documents of one sentence make no chunk; they only serve as random second segments of others.

    The plain version, a loop over sentences, is in tests/text/pretraining/test_chunking.py.
    Source: google-research/bert, `create_pretraining_data.py`, `create_instances_from_document`.
    """
    offsets, document_offsets = _cut_long_sentences(block, budget)
    document_of = _document_of(document_offsets)
    document_end = document_offsets[1:][document_of]  # (P)
    # For a chunk that begins at piece p: the first piece that no longer fits, at least p + 2, at most the end
    # of the document. That is where the next chunk begins, so the chunks of a document are the chain of
    # these.
    first_not_fitting = np.searchsorted(offsets, offsets[:-1] + budget, side="right") - 1
    chunk_end = np.minimum(np.maximum(first_not_fitting, np.arange(len(document_of)) + 2), document_end)
    begins = _chain(chunk_end, document_offsets[:-1], document_end)
    ends = chunk_end[begins]
    begins = np.where(ends - begins < 2, ends - 2, begins)  # a last sentence by itself
    has_two_sentences = np.diff(block.document_offsets)[document_of[ends - 1]] >= 2
    return ChunkedBlock(
        tokens=block.ids,
        offsets=offsets,
        document_offsets=document_offsets,
        document_of=document_of,
        begins=begins[has_two_sentences],
        ends=ends[has_two_sentences],
    )


def chunk_stream(block: Block, *, budget: int, sep_id: int) -> ChunkedBlock:
    """Join all documents to one stream with [SEP] after each; make as many examples as windows cover it.

    The stream is used as a ring: its first `budget` tokens are repeated at its end, so that every window is
    contiguous in `tokens`. The one piece is the ring without that repetition.

    Source: Liu et al. 2019, RoBERTa, section 4.2 (FULL-SENTENCES).
    """
    document_end = block.sentence_offsets[block.document_offsets[1:]]
    stream = np.insert(block.ids, document_end, sep_id)
    num_examples = 0 if not len(block.ids) else max(1, len(stream) // budget)
    return ChunkedBlock(
        tokens=np.concatenate([stream, stream[:budget]]),
        offsets=np.array([0, len(stream)]),
        document_offsets=np.array([0, 1]),
        document_of=np.zeros(1, np.int64),
        begins=np.zeros(num_examples, np.int64),
        ends=np.ones(num_examples, np.int64),
    )


def _document_of(document_offsets: Int64s) -> Int64s:
    return np.repeat(np.arange(len(document_offsets) - 1), np.diff(document_offsets))


def _cut_long_sentences(block: Block, budget: int) -> tuple[Int64s, Int64s]:
    """Cut sentences over the budget into equal parts of about half of it.

    Returns offsets of the pieces in tokens (P + 1), and of the documents in pieces (D + 1).
    """
    lengths_S = np.diff(block.sentence_offsets)
    num_parts_S = np.where(lengths_S > budget, -(-lengths_S // max(1, budget // 2)), 1)
    part_P = ragged.positions_in_lists(num_parts_S)  # 0, 1, ... inside each sentence
    # Part i of n begins at length * i // n inside its sentence.
    begins_P = np.repeat(block.sentence_offsets[:-1], num_parts_S)
    begins_P += np.repeat(lengths_S, num_parts_S) * part_P // np.repeat(num_parts_S, num_parts_S)
    pieces_before = ragged.offsets_of(num_parts_S)  # (S + 1)
    return np.append(begins_P, block.sentence_offsets[-1:]), pieces_before[block.document_offsets]


def _chain(next_P: Int64s, begins_D: Int64s, document_end_P: Int64s) -> Int64s:
    """Return all pieces that are reached from `begins_D` by following `next_P` inside documents, ascending.

    Pointer jumping: a round marks what lies `2**i` steps after the pieces marked so far, then doubles the
    step. A document of any number of chunks takes a few rounds over whole arrays instead of a loop over
    chunks. Source: Wyllie 1979, The Complexity of Parallel Computations (list ranking).
    """
    outside = len(next_P)  # stands for the end of the document, and leads to itself
    jump = np.append(np.where(next_P < document_end_P, next_P, outside), outside)
    is_reached = np.zeros(outside + 1, dtype=bool)
    is_reached[begins_D] = True
    num_before = -1
    while (num_reached := int(is_reached.sum())) > num_before:
        num_before = num_reached
        is_reached[jump[is_reached]] = True
        jump = jump[jump]
    return np.flatnonzero(is_reached[:-1])
