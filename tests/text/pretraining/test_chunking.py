"""The chunks of a block compared with a loop over its sentences."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.text.pretraining.chunking import chunk_filled, chunk_sentence_pairs, chunk_stream
from corpus_kit import block_of

DOCUMENTS = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=8), min_size=1, max_size=12)


def plain_pieces(documents: list[list[int]], budget: int) -> list[list[int]]:
    """Return the lengths of each document's pieces: sentences, or equal parts of those over the budget."""
    found: list[list[int]] = []
    for document in documents:
        found.append([])
        for length in document:
            num_parts = -(-length // max(1, budget // 2)) if length > budget else 1
            ends = [length * i // num_parts for i in range(num_parts + 1)]
            found[-1] += [end - begin for begin, end in itertools.pairwise(ends)]
    return found


def plain_chunks(documents: list[list[int]], budget: int) -> list[tuple[int, int]]:
    """Take piece after piece of a document until the next one does not fit, but two at least."""
    found = []
    first = 0
    for document, pieces in zip(documents, plain_pieces(documents, budget), strict=True):
        begin = 0
        while begin < len(pieces):
            end = begin
            while end < len(pieces) and (end < begin + 2 or sum(pieces[begin : end + 1]) <= budget):
                end += 1
            if len(document) > 1:
                found.append((first + min(begin, end - 2), first + end))
            begin = end
        first += len(pieces)
    return found


@given(DOCUMENTS, st.sampled_from([5, 13, 29, 61]))
def test_filled_chunks_are_those_of_a_loop_over_sentences(documents: list[list[int]], budget: int) -> None:
    chunks = chunk_filled(block_of(documents), budget=budget)
    lengths = [length for pieces in plain_pieces(documents, budget) for length in pieces]
    assert np.diff(chunks.offsets).tolist() == lengths
    assert list(zip(chunks.begins.tolist(), chunks.ends.tolist(), strict=True)) == plain_chunks(
        documents, budget
    )


@given(DOCUMENTS, st.sampled_from([8, 16, 32, 64]))
def test_filled_chunks_cover_every_sentence_of_documents_that_make_pairs(
    documents: list[list[int]], max_len: int
) -> None:
    block = block_of(documents)
    chunks = chunk_filled(block, budget=max_len - 3)
    covered = np.zeros(chunks.num_pieces, dtype=bool)
    for begin, end in zip(chunks.begins, chunks.ends, strict=True):
        assert end - begin >= 2
        assert chunks.document_of[begin] == chunks.document_of[end - 1]
        covered[begin:end] = True
    several = np.array([len(d) for d in documents]) > 1
    assert (covered == several[chunks.document_of]).all()
    room = max_len - 3
    lengths = chunks.offsets[chunks.ends] - chunks.offsets[chunks.begins]
    assert (lengths[chunks.ends - chunks.begins > 2] <= room).all()
    assert np.diff(chunks.offsets).max() <= room


def test_a_chunk_takes_as_many_sentences_as_fit() -> None:
    chunks = chunk_filled(block_of([[5, 5, 5, 5, 5, 5, 5], [50, 3]]), budget=20)
    pieces = list(zip(chunks.begins.tolist(), chunks.ends.tolist(), strict=True))
    # 20 tokens: four sentences, the next three; the long sentence is cut in five, and 3 goes with the last.
    assert pieces[:2] == [(0, 4), (4, 7)]
    assert pieces[2:] == [(7, 9), (9, 11), (11, 13)]
    assert np.diff(chunks.offsets)[7:].tolist() == [10, 10, 10, 10, 10, 3]


def test_a_last_sentence_by_itself_gets_the_one_before_it() -> None:
    chunks = chunk_filled(block_of([[5, 5, 4]]), budget=10)
    assert list(zip(chunks.begins.tolist(), chunks.ends.tolist(), strict=True)) == [(0, 2), (1, 3)]


@given(DOCUMENTS)
def test_sentence_pairs_are_those_of_a_loop_over_sentences(documents: list[list[int]]) -> None:
    chunks = chunk_sentence_pairs(block_of(documents))
    expected, number = [], 0
    for document in documents:
        expected += [(number + i, number + i + 2) for i in range(len(document) - 1)]
        number += len(document)
    assert list(zip(chunks.begins.tolist(), chunks.ends.tolist(), strict=True)) == expected


@given(DOCUMENTS, st.sampled_from([5, 13, 600]))
def test_a_stream_is_all_documents_with_a_separator_after_each(
    documents: list[list[int]], budget: int
) -> None:
    block = block_of(documents)
    chunks = chunk_stream(block, budget=budget, sep_id=3)
    stream: list[int] = []
    for begin, end in itertools.pairwise(block.document_offsets):
        stream += [*block.ids[block.sentence_offsets[begin] : block.sentence_offsets[end]].tolist(), 3]
    assert chunks.tokens.tolist() == stream + stream[:budget]
    assert chunks.offsets.tolist() == [0, len(stream)]
    assert chunks.num_examples == max(1, len(stream) // budget)
