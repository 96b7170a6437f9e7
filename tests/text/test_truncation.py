"""The closed forms against what they stand for: literal loops that pop one wordpiece at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.text.truncation import STRATEGIES, budget_of, truncate_lengths, truncation_report

LENGTHS = st.integers(0, 40)
PAIRS = st.lists(st.tuples(LENGTHS, LENGTHS), min_size=1, max_size=20)
BUDGETS = st.integers(0, 70)


def cut_one(a: int, b: int, budget: int, strategy: str) -> tuple[list[int], list[int]]:
    """Return which places of each text are kept, as `truncate_lengths` says it."""
    cut = truncate_lengths(np.array([a]), np.array([b]), budget=budget, strategy=strategy)
    kept = []
    for length, keep, head in ((a, cut.keep_a, cut.head_a), (b, cut.keep_b, cut.head_b)):
        tail = int(keep[0] - head[0])
        kept.append([*range(int(head[0])), *range(length - tail, length)])
    return kept[0], kept[1]


def loop_of_pops(a: int, b: int, budget: int) -> tuple[list[int], list[int]]:
    """Cut as d2l does it."""
    first, second = list(range(a)), list(range(b))
    while len(first) + len(second) > budget:
        if len(first) > len(second):
            first.pop()
        else:
            second.pop()
    return first, second


def pops_from(a: int, b: int, budget: int, *, which: int) -> tuple[list[int], list[int]]:
    """Cut one text, and the other only when nothing of the one is left."""
    texts = list(range(a)), list(range(b))
    while len(texts[0]) + len(texts[1]) > budget:
        (texts[which] or texts[1 - which]).pop()
    return texts


@given(a=LENGTHS, b=LENGTHS, budget=BUDGETS)
def test_longest_first_is_d2ls_loop_of_pops(a: int, b: int, budget: int) -> None:
    assert cut_one(a, b, budget, "longest_first") == loop_of_pops(a, b, budget)


def test_longest_first_is_d2ls_loop_for_every_small_pair() -> None:
    checked = 0
    for a in range(14):
        for b in range(14):
            for budget in range(30):
                assert cut_one(a, b, budget, "longest_first") == loop_of_pops(a, b, budget), (a, b, budget)
                checked += 1
    assert checked == 14 * 14 * 30


@given(a=LENGTHS, b=LENGTHS, budget=BUDGETS)
@pytest.mark.parametrize(("strategy", "which"), [("only_first", 0), ("only_second", 1)])
def test_only_one_text_is_cut_until_nothing_of_it_is_left(
    strategy: str, which: int, a: int, b: int, budget: int
) -> None:
    assert cut_one(a, b, budget, strategy) == pops_from(a, b, budget, which=which)


@given(a=LENGTHS, b=LENGTHS, budget=BUDGETS)
def test_ratio_keeps_each_texts_share_to_within_one_piece(a: int, b: int, budget: int) -> None:
    kept_a, kept_b = cut_one(a, b, budget, "ratio")
    if a + b > budget:
        assert abs(len(kept_a) - budget * a / (a + b)) <= 1
        assert abs(len(kept_b) - budget * b / (a + b)) <= 1
        if budget >= 2:
            assert bool(kept_a) == bool(a)
            assert bool(kept_b) == bool(b)


@given(a=LENGTHS, b=LENGTHS, budget=BUDGETS)
def test_head_tail_keeps_as_much_as_longest_first_from_both_ends(a: int, b: int, budget: int) -> None:
    kept = cut_one(a, b, budget, "head_tail")
    for places, length, plain in zip(kept, (a, b), loop_of_pops(a, b, budget), strict=True):
        assert len(places) == len(plain)
        tail = len(places) // 2 if len(places) < length else 0
        head = len(places) - tail
        assert places == [*range(head), *range(length - tail, length)]


@given(pairs=PAIRS, budget=st.integers(-5, 70))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_strategy_exceeds_the_budget_or_wastes_it(
    strategy: str, pairs: list[tuple[int, int]], budget: int
) -> None:
    a, b = (np.array(x) for x in zip(*pairs, strict=True))
    cut = truncate_lengths(a, b, budget=budget, strategy=strategy)
    np.testing.assert_array_equal(cut.keep_a + cut.keep_b, np.minimum(a + b, max(budget, 0)))
    for keep, head, length in ((cut.keep_a, cut.head_a, a), (cut.keep_b, cut.head_b, b)):
        assert ((keep >= 0) & (keep <= length) & (head >= 0) & (head <= keep)).all()


@given(pairs=PAIRS, budget=BUDGETS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_is_cut_as_its_rows_are(strategy: str, pairs: list[tuple[int, int]], budget: int) -> None:
    a, b = (np.array(x) for x in zip(*pairs, strict=True))
    cut = truncate_lengths(a, b, budget=budget, strategy=strategy)
    for i, (one_a, one_b) in enumerate(pairs):
        kept_a, kept_b = cut_one(one_a, one_b, budget, strategy)
        assert (cut.keep_a[i], cut.keep_b[i]) == (len(kept_a), len(kept_b))


@given(lengths=st.lists(LENGTHS, min_size=1), budget=BUDGETS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_single_texts_are_cut_to_the_budget(strategy: str, lengths: list[int], budget: int) -> None:
    a = np.array(lengths)
    cut = truncate_lengths(a, None, budget=budget, strategy=strategy)
    np.testing.assert_array_equal(cut.keep_a, np.minimum(a, budget))
    assert not cut.keep_b.any()
    if strategy != "head_tail":
        np.testing.assert_array_equal(cut.head_a, cut.keep_a)


def test_the_budget_leaves_room_for_the_special_tokens() -> None:
    assert budget_of(128, is_pair=True) == 125
    assert budget_of(128, is_pair=False) == 126


def test_a_report_says_how_much_is_cut() -> None:
    a, b = np.array([10, 2, 0, 30]), np.array([4, 3, 0, 8])
    found = truncation_report(a, b, budget=10, strategy="only_first")
    assert (found.num_rows, found.num_cut, found.num_tokens) == (4, 2, 57)
    assert (found.num_tokens_cut, found.num_tokens_cut_second, found.max_tokens_cut) == (4 + 28, 0, 28)
    assert found.num_texts_lost == 0
    found = truncation_report(a, b, budget=6, strategy="only_second")
    assert found.num_tokens_cut_second == 4 + 0 + 8
    assert found.num_texts_lost == 2
    assert truncation_report(a, None, budget=30, strategy="ratio").num_cut == 0
