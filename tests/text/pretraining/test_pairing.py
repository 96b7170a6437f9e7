"""Pairs and windows of a block: which there are, next or random half and half, and true to their labels."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.config.pretrain import ObjectiveSection
from bertjobs.errors import DataError
from bertjobs.text.corpus.blocks import Block, BlockInfo
from bertjobs.text.pretraining.chunking import chunk_filled, chunk_sentence_pairs
from bertjobs.text.pretraining.hashed_random import Purpose, draws, row_keys
from bertjobs.text.pretraining.pairing import BlockSelection, Pairing, SegmentRanges
from corpus_kit import block_of, random_block

SEP = 3
DOCUMENTS = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=8), min_size=2, max_size=12).filter(
    lambda documents: any(len(d) > 1 for d in documents)
)
SEEDS = st.integers(0, 2**31 - 1)


def pairing(max_len: int = 32, **objective: object) -> Pairing:
    return Pairing(ObjectiveSection.model_validate(objective), max_len, sep_id=SEP)


def all_ranges(
    made: Pairing, block: Block, *, seed: int = 0, epoch: int = 0, first: int = 0
) -> SegmentRanges:
    part = BlockSelection(block=block, indices=np.arange(made.num_examples(block)), first=first)
    return made.segment_ranges([part], seed=seed, epoch=epoch)


def plain_segments(
    block: Block, max_len: int, *, pairs: str, segments: str, seed: int, epoch: int, index: int
) -> tuple[list[int], list[int], bool]:
    """Make one example with loops over lists; return the ids of both segments, and whether it is changed."""
    budget = max_len - 3
    chunks = chunk_sentence_pairs(block) if segments == "sentence" else chunk_filled(block, budget=budget)
    documents: list[list[list[int]]] = [[] for _ in range(chunks.document_of.max() + 1)]
    pieces = [block.ids[a:b].tolist() for a, b in itertools.pairwise(chunks.offsets)]
    for piece, document in zip(pieces, chunks.document_of, strict=True):
        documents[document].append(piece)

    def bits(purpose: Purpose, number: int, place: int) -> int:
        keys = row_keys(np.array([number]), seed=seed, epoch=epoch, purpose=purpose)
        return int(draws(keys, place)[0])

    coin = bits(Purpose.COINS, index // 2, 0) >> 63
    is_changed = bool(coin) != bool(index % 2)
    chunk = pieces[chunks.begins[index] : chunks.ends[index]]
    middle = 1 + ((bits(Purpose.PAIRS, index, 0) >> 32) * (len(chunk) - 1) >> 32)
    first, second = [[i for piece in part for i in piece] for part in (chunk[:middle], chunk[middle:])]
    if is_changed and pairs == "sop":
        first, second = second, first
    if is_changed and pairs == "nsp":
        own = chunks.document_of[chunks.begins[index]]
        others = [(d, i) for d in range(len(documents)) if d != own for i in range(len(documents[d]))]
        document, i = others[(bits(Purpose.PAIRS, index, 1) >> 32) * len(others) >> 32]
        room, second = budget - len(first), list(documents[document][i])
        for piece in documents[document][i + 1 :] if segments == "filled" else []:
            if len(second) + len(piece) > room:
                break
            second += piece
    while len(first) + len(second) > budget:
        (first if len(first) > len(second) else second).pop()
    return first, second, is_changed


@given(
    DOCUMENTS,
    SEEDS,
    st.integers(0, 100),
    st.sampled_from(["nsp", "sop"]),
    st.sampled_from(["filled", "sentence"]),
    st.sampled_from([8, 16, 64]),
)
def test_examples_are_those_of_loops_over_sentences(
    documents: list[list[int]], seed: int, epoch: int, pairs: str, segments: str, max_len: int
) -> None:
    block = block_of(documents)
    ranges = all_ranges(pairing(max_len, pairs=pairs, segments=segments), block, seed=seed, epoch=epoch)
    for i in range(min(len(ranges.labels), 12)):
        first, second, is_changed = plain_segments(
            block, max_len, pairs=pairs, segments=segments, seed=seed, epoch=epoch, index=i
        )
        assert block.ids[ranges.begin_a[i] : ranges.end_a[i]].tolist() == first
        assert block.ids[ranges.begin_b[i] : ranges.end_b[i]].tolist() == second
        assert ranges.labels[i] == is_changed


def sentence_of(block: Block, places: np.ndarray) -> np.ndarray:
    return np.searchsorted(block.sentence_offsets, places, side="right") - 1


def document_of(block: Block, places: np.ndarray) -> np.ndarray:
    return np.searchsorted(block.document_offsets, sentence_of(block, places), side="right") - 1


@given(DOCUMENTS, SEEDS, st.sampled_from(["filled", "sentence"]), st.sampled_from([8, 16, 32, 64]))
def test_random_segments_are_of_another_document_and_next_ones_follow(
    documents: list[list[int]], seed: int, segments: str, max_len: int
) -> None:
    block = block_of(documents)
    ranges = all_ranges(pairing(max_len, segments=segments), block, seed=seed)
    a, b = document_of(block, ranges.begin_a), document_of(block, ranges.begin_b)
    assert (document_of(block, ranges.end_a - 1) == a).all()
    assert (document_of(block, ranges.end_b - 1) == b).all()
    assert (ranges.end_a > ranges.begin_a).all()
    assert (ranges.end_b > ranges.begin_b).all()
    assert (ranges.end_a - ranges.begin_a + ranges.end_b - ranges.begin_b <= max_len - 3).all()
    is_random = ranges.labels == 1
    assert (a[is_random] != b[is_random]).all()
    assert (a[~is_random] == b[~is_random]).all()
    assert (ranges.begin_b[~is_random] >= ranges.end_a[~is_random]).all()
    num = len(ranges.labels)
    assert abs(int(is_random.sum()) - num / 2) <= 1


def test_sentence_pairs_are_all_neighbours_of_a_document_as_d2l_takes_them() -> None:
    block = block_of([[4, 5, 6], [7], [20, 30]])
    made = pairing(32, segments="sentence")
    assert made.num_examples(block) == 3
    seen = set()
    for epoch in range(20):
        ranges = all_ranges(made, block, epoch=epoch)
        for i in np.flatnonzero(ranges.labels == 0):
            seen.add(
                (int(ranges.begin_a[i]), int(ranges.end_a[i]), int(ranges.begin_b[i]), int(ranges.end_b[i]))
            )
    # The last pair is cut to 29 tokens: 15 of the first sentence, 14 of the second.
    assert seen == {(0, 4, 4, 9), (4, 9, 9, 15), (22, 37, 42, 56)}


def test_split_points_and_coins_differ_between_epochs_and_seeds() -> None:
    block = random_block(np.random.default_rng(0), num_documents=50)
    made = pairing(128)
    one, same = (all_ranges(made, block, seed=1, epoch=2) for _ in range(2))
    assert all((getattr(one, name) == getattr(same, name)).all() for name in vars(one))
    for seed, epoch in ((1, 3), (2, 2)):
        other = all_ranges(made, block, seed=seed, epoch=epoch)
        assert 0.3 < (one.labels != other.labels).mean() < 0.7
        assert (one.end_a != other.end_a).mean() > 0.3


def test_swapped_order_has_the_same_two_segments() -> None:
    block = random_block(np.random.default_rng(0), num_documents=30)
    ranges = all_ranges(pairing(256, pairs="sop"), block)
    is_swapped = ranges.labels == 1
    assert 0.4 < is_swapped.mean() < 0.6
    assert (ranges.end_b[is_swapped] == ranges.begin_a[is_swapped]).all()
    assert (ranges.end_a[~is_swapped] == ranges.begin_b[~is_swapped]).all()


def test_random_segments_begin_anywhere_in_the_block_equally_often() -> None:
    block = block_of([[3] * 10 for _ in range(20)])
    made = pairing(64, segments="sentence")
    found = []
    for epoch in range(200):
        ranges = all_ranges(made, block, epoch=epoch)
        found.append(sentence_of(block, ranges.begin_b[ranges.labels == 1]))
    counts = np.bincount(np.concatenate(found), minlength=200)
    expected = counts.sum() / 200
    assert abs(counts - expected).max() < 6 * np.sqrt(expected)


@given(DOCUMENTS, SEEDS, st.sampled_from([8, 16, 64, 512]))
def test_windows_fill_the_length_and_have_no_token_twice(
    documents: list[list[int]], seed: int, max_len: int
) -> None:
    block = block_of(documents)
    made = pairing(max_len, pairs="none")
    ranges = all_ranges(made, block, seed=seed)
    num_stream = block.num_tokens + block.num_documents
    assert len(ranges.labels) == max(1, num_stream // (max_len - 2))
    assert (ranges.end_a - ranges.begin_a == min(max_len - 2, num_stream)).all()
    assert (ranges.begin_b == ranges.end_b).all()
    places = np.concatenate([np.arange(b, e) for b, e in zip(ranges.begin_a, ranges.end_a, strict=True)])
    assert len(set((places % num_stream).tolist())) == len(places)
    tokens = made.tokens(block)
    assert (tokens[:num_stream] == SEP).sum() == block.num_documents
    assert tokens[:num_stream][tokens[:num_stream] != SEP].tolist() == block.ids.tolist()
    assert places.max() < len(tokens)


def test_windows_begin_elsewhere_in_each_epoch() -> None:
    block = random_block(np.random.default_rng(0), num_documents=30)
    made = pairing(32, pairs="none")
    begins = {int(all_ranges(made, block, epoch=epoch).begin_a[0]) for epoch in range(20)}
    assert len(begins) > 15


def test_examples_do_not_depend_on_which_others_are_asked_for() -> None:
    block = random_block(np.random.default_rng(3), num_documents=40)
    for objective in ({}, {"pairs": "sop"}, {"pairs": "none"}, {"segments": "sentence"}):
        made = pairing(64, **objective)
        whole = all_ranges(made, block, first=1000)
        some = np.array([5, 1, 3])
        part = made.segment_ranges([BlockSelection(block=block, indices=some, first=1000)], seed=0, epoch=0)
        assert all((getattr(whole, name)[some] == getattr(part, name)).all() for name in vars(whole))


def infos(*documents: list[list[int]]) -> list[BlockInfo]:
    return [
        BlockInfo(
            num_documents=len(block),
            num_pairable=sum(len(d) > 1 for d in block),
            num_sentences=sum(map(len, block)),
            num_tokens=sum(map(sum, block)),
            num_dropped=0,
        )
        for block in documents
    ]


@pytest.mark.parametrize(
    ("pairs", "blocks", "message"),
    [
        ("nsp", [[]], "The corpus is empty: it has no text. Give files with text (--corpus)."),
        ("none", [[]], "The corpus is empty: it has no text. Give files with text (--corpus)."),
        (
            "nsp",
            [[[3, 4]], []],
            "The corpus is a single document, so there is none to take a random second segment from "
            "(--pairs nsp). Give more documents (--corpus), use smaller ones (--document), or give --pairs "
            "sop or --pairs none.",
        ),
        (
            "sop",
            [[[3], [4]], [[5]]],
            "None of the 3 documents has two sentences, so there is no next sentence to predict (--pairs "
            "sop). Change what a document or a sentence is (--document, --sentences), or give --pairs none.",
        ),
    ],
)
def test_a_corpus_that_makes_no_examples_is_refused(
    pairs: str, blocks: list[list[list[int]]], message: str
) -> None:
    with pytest.raises(DataError) as e:
        pairing(pairs=pairs).check(infos(*blocks))
    assert str(e.value) == message


def test_a_corpus_that_makes_examples_is_accepted() -> None:
    pairing(pairs="nsp").check(infos([[3, 4]], [[5]]))
    pairing(pairs="sop").check(infos([[3, 4]]))
    pairing(pairs="none").check(infos([[3]]))


def test_a_block_of_one_document_makes_no_random_pairs() -> None:
    with pytest.raises(
        DataError, match="A block of one document has no other to take a random second segment"
    ):
        pairing().num_examples(block_of([[3, 4]]))
    assert pairing(pairs="sop").num_examples(block_of([[3, 4]])) == 1
    assert pairing().num_examples(block_of([[3], [4]])) == 0
