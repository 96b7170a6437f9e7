"""What examples of a block can be made from, laid out once per block: neighbouring sentences, chunks of them
that fill a sequence, or one stream of tokens.

P: pieces, which are sentences, or parts of sentences that are longer than a sequence. E: examples.
"""

from dataclasses import dataclass

import numpy as np

from bertjobs.text import ragged
from bertjobs.text.corpus.blocks import Block
from bertjobs.text.pretraining.hashed_random import Int64s


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Example e is made from the pieces `begins[e]` to `ends[e]`."""

    tokens: np.ndarray
    offsets: Int64s
    """(P + 1): places of the pieces in `tokens`."""
    document_offsets: Int64s
    """(D + 1): numbers of pieces."""
    document_of: Int64s
    """(P)"""
    begins: Int64s
    """(E)"""
    ends: Int64s
    """(E): at least two pieces after `begins`, in the same document; for a stream one."""

    @property
    def num_examples(self) -> int:
        return len(self.begins)

    @property
    def num_pieces(self) -> int:
        return len(self.offsets) - 1


def lay_out_sentences(block: Block) -> Layout:
    """Every sentence that has a next one, with it. Source: d2l, `_get_nsp_data_from_paragraph`."""
    document_of = _document_of(block.document_offsets)
    begins = np.flatnonzero(document_of[1:] == document_of[:-1])
    return Layout(
        tokens=block.ids,
        offsets=block.sentence_offsets,
        document_offsets=block.document_offsets,
        document_of=document_of,
        begins=begins,
        ends=begins + 2,
    )


def lay_out_chunks(block: Block, *, budget: int) -> Layout:
    """Consecutive sentences of a document up to `budget` tokens, two at least.

    A last sentence that would stand alone takes the one before it along. Documents of one sentence make no
    chunk; others take their second segments from them.
    """
    offsets, document_offsets = _cut_long_sentences(block, budget)
    document_of = _document_of(document_offsets)
    ends_of_document = document_offsets[1:][document_of]
    fits = np.searchsorted(offsets, offsets[:-1] + budget, side="right") - 1
    after = np.minimum(np.maximum(fits, np.arange(len(document_of)) + 2), ends_of_document)
    begins = _chain(after, document_offsets[:-1], ends_of_document)
    ends = after[begins]
    begins = np.where(ends - begins < 2, ends - 2, begins)
    is_pair = np.diff(block.document_offsets)[document_of[ends - 1]] >= 2
    return Layout(
        tokens=block.ids,
        offsets=offsets,
        document_offsets=document_offsets,
        document_of=document_of,
        begins=begins[is_pair],
        ends=ends[is_pair],
    )


def lay_out_stream(block: Block, *, budget: int, sep_id: int) -> Layout:
    """All documents one after another, [SEP] after each, closed to a ring; as many examples as fill it.

    The ring's first `budget` tokens are repeated at its end, so that no window wraps. The one piece is the
    ring without them.
    """
    ends_of_document = block.sentence_offsets[block.document_offsets[1:]]
    stream = np.insert(block.ids, ends_of_document, sep_id)
    num_examples = 0 if not len(block.ids) else max(1, len(stream) // budget)
    return Layout(
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
    """Return offsets of pieces and of documents: sentences over the budget in equal parts of half of it."""
    lengths = np.diff(block.sentence_offsets)
    num_parts = np.where(lengths > budget, -(-lengths // max(1, budget // 2)), 1)
    part = ragged.within(num_parts)
    begins = np.repeat(block.sentence_offsets[:-1], num_parts)
    begins += np.repeat(lengths, num_parts) * part // np.repeat(num_parts, num_parts)
    pieces_before = ragged.offsets_of(num_parts)
    return np.append(begins, block.sentence_offsets[-1:]), pieces_before[block.document_offsets]


def _chain(after: Int64s, begins: Int64s, ends_of_document: Int64s) -> Int64s:
    """Return all places reached from `begins` by following `after` inside documents, ascending.

    Steps double: from what is reached in fewer than 2**i of them, 2**i more reach all that take fewer than
    2**(i + 1). So a document of any length takes a few rounds over whole arrays, and no loop over chunks.
    """
    outside = len(after)
    jump = np.append(np.where(after < ends_of_document, after, outside), outside)
    is_reached = np.zeros(outside + 1, dtype=bool)
    is_reached[begins] = True
    num_before = -1
    while (num_reached := int(is_reached.sum())) > num_before:
        num_before = num_reached
        is_reached[jump[is_reached]] = True
        jump = jump[jump]
    return np.flatnonzero(is_reached[:-1])
