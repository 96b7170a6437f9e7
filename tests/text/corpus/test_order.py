"""The order of a corpus: every example once per epoch, any step by itself, and a window of blocks at hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.text.corpus.order import CorpusOrder

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=20).filter(any)


@given(COUNTS, st.integers(1, 6), st.integers(1, 50), st.integers(0, 2**31 - 1))
def test_an_epoch_is_a_permutation_and_its_last_batch_is_what_is_left(
    counts: list[int], shuffle_blocks: int, batch_size: int, seed: int
) -> None:
    order = CorpusOrder(counts, seed=seed, shuffle_blocks=shuffle_blocks)
    per_epoch = order.steps_per_epoch(batch_size)
    for epoch in (0, 1):
        seen = []
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            found, parts = order.batch(step, batch_size)
            assert found == epoch
            numbers = [order.first_of(block) + i for block, local in parts for i in local.tolist()]
            is_last = step == (epoch + 1) * per_epoch - 1
            assert len(numbers) == (sum(counts) - len(seen) if is_last else batch_size)
            assert all(0 <= i < counts[block] for block, local in parts for i in local.tolist())
            seen += numbers
        assert sorted(seen) == list(range(sum(counts)))


@given(COUNTS, st.integers(1, 6), st.integers(0, 200))
def test_any_step_gives_its_batch_without_those_before(
    counts: list[int], shuffle_blocks: int, step: int
) -> None:
    going = CorpusOrder(counts, seed=5, shuffle_blocks=shuffle_blocks)
    for before in range(max(0, step - 30), step):
        going.batch(before, 7)
    resumed = CorpusOrder(counts, seed=5, shuffle_blocks=shuffle_blocks)
    (epoch_a, a), (epoch_b, b) = going.batch(step, 7), resumed.batch(step, 7)
    assert epoch_a == epoch_b
    assert [(block, local.tolist()) for block, local in a] == [(block, local.tolist()) for block, local in b]


def test_only_the_blocks_of_a_window_or_two_are_needed_at_a_time() -> None:
    order = CorpusOrder([50] * 40 + [0] * 2, seed=0, shuffle_blocks=5)
    for step in range(2 * order.steps_per_epoch(32)):
        _, parts = order.batch(step, 32)
        around = order.blocks_around(step, 32)
        assert {block for block, _ in parts} <= set(around)
        assert len(around) <= 10


def test_epochs_and_seeds_have_other_orders() -> None:
    def first_batch(seed: int, epoch: int) -> list[int]:
        order = CorpusOrder([100] * 10, seed=seed, shuffle_blocks=4)
        _, parts = order.batch(epoch * order.steps_per_epoch(100), 100)
        return [order.first_of(block) + i for block, local in parts for i in local.tolist()]

    one = first_batch(0, 0)
    assert one == first_batch(0, 0)
    for seed, epoch in ((0, 1), (1, 0)):
        assert len(set(one) & set(first_batch(seed, epoch))) < 60


def test_a_batch_mixes_the_blocks_of_its_window() -> None:
    order = CorpusOrder([1000] * 8, seed=0, shuffle_blocks=8)
    _, parts = order.batch(0, 256)
    sizes = [len(local) for _, local in parts]
    assert len(sizes) == 8
    assert min(sizes) > 10


def test_a_corpus_without_examples_fails_an_assertion() -> None:
    with pytest.raises(AssertionError, match=r"Pairing\.check refuses"):
        CorpusOrder([0, 0], seed=0, shuffle_blocks=1)


def test_numbers_of_examples_do_not_depend_on_the_order() -> None:
    order = CorpusOrder([3, 0, 5], seed=1, shuffle_blocks=1)
    assert [order.first_of(block) for block in range(3)] == [0, 3, 3]
    assert np.concatenate([local for _, local in order.batch(0, 8)[1]]).size == order.num_examples == 8
