"""From examples of several blocks to a masked batch: every token in its place, whatever the split."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.config.pretrain import ObjectiveSection
from bertjobs.text.batching import share_of_rank, split_microbatches
from bertjobs.text.corpus.blocks import Block
from bertjobs.text.pretraining.collate import (
    Examples,
    PretrainBatch,
    collate_pretraining,
    draw_examples,
)
from bertjobs.text.pretraining.masking import Masker
from bertjobs.text.pretraining.pairing import BlockSelection, Pairing
from corpus_kit import Vocabulary, block_of, random_block

VOCABULARY = Vocabulary()
OBJECTIVES = st.sampled_from(
    [{}, {"pairs": "sop"}, {"pairs": "none"}, {"segments": "sentence"}, {"whole_word": True}]
)


def objective_of(given: dict) -> ObjectiveSection:
    return ObjectiveSection.model_validate(given)


def examples_of(
    blocks: list[Block], objective: ObjectiveSection, *, max_len: int, seed: int = 0, epoch: int = 0
) -> Examples:
    pairing = Pairing(objective, max_len, sep_id=VOCABULARY.sep_id)
    parts, first = [], 0
    for block in blocks:
        num_examples = pairing.num_examples(block)
        parts.append(BlockSelection(block=block, indices=np.arange(num_examples), first=first))
        first += num_examples
    return draw_examples(pairing, parts, seed=seed, epoch=epoch)


def batch_of(examples: Examples, rows: np.ndarray, objective: ObjectiveSection) -> PretrainBatch:
    return collate_pretraining(examples, rows, masker=Masker(objective, VOCABULARY), tokenizer=VOCABULARY)


def rows_of(batch: PretrainBatch) -> dict[int, tuple]:
    """Return what stands in each row of a batch, by the number of its example."""
    true_ids = batch.ids_N.copy()
    true_ids[batch.masked_P] = batch.targets_P
    is_masked = np.zeros(len(true_ids), dtype=bool)
    is_masked[batch.masked_P] = True
    found = {}
    for i, (start, length) in enumerate(zip(batch.starts_B, batch.lengths_B, strict=True)):
        own = slice(start, start + length)
        found[int(batch.indices_B[i])] = (
            batch.ids_N[own].tolist(), true_ids[own].tolist(), is_masked[own].tolist(),
            batch.segments_N[own].tolist(), batch.positions_N[own].tolist(), int(batch.labels_B[i]),
        )  # fmt: skip
    return found


def plain_row(examples: Examples, row: int) -> tuple[list[int], list[int]]:
    """Build one sequence, not masked, and its segments by slicing lists."""
    tokens = examples.tokens[examples.block_B[row]]
    a = tokens[examples.begin_a_B[row] : examples.end_a_B[row]].tolist()
    b = tokens[examples.begin_b_B[row] : examples.end_b_B[row]].tolist()
    ids, segments = [VOCABULARY.cls_id, *a, VOCABULARY.sep_id], [0] * (len(a) + 2)
    if examples.is_pair:
        ids, segments = [*ids, *b, VOCABULARY.sep_id], [*segments, *[1] * (len(b) + 1)]
    return ids, segments


@given(OBJECTIVES, st.integers(0, 2**31 - 1), st.sampled_from([8, 32, 128]))
def test_a_batch_is_its_rows_built_one_by_one(given: dict, seed: int, max_len: int) -> None:
    rng = np.random.default_rng(seed)
    objective = objective_of(given)
    blocks = [random_block(rng, num_documents=n) for n in (3, 9)]
    examples = examples_of(blocks, objective, max_len=max_len, seed=seed)
    rows = rng.permutation(len(examples.lengths_B))
    found = rows_of(batch_of(examples, rows, objective))
    assert sorted(found) == sorted(rows.tolist())
    for row, (_, true_ids, _, segments, positions, label) in found.items():
        assert (true_ids, segments) == plain_row(examples, row)
        assert positions == list(range(len(true_ids)))
        assert label == examples.labels_B[row]
        assert examples.lengths_B[row] == len(true_ids)


@given(OBJECTIVES, st.integers(0, 2**31 - 1), st.sampled_from([8, 32, 128]))
def test_a_row_is_the_same_however_the_batch_is_split_over_ranks_and_microbatches(
    given: dict, seed: int, max_len: int
) -> None:
    rng = np.random.default_rng(seed)
    objective = objective_of(given)
    examples = examples_of(
        [random_block(rng, num_documents=n) for n in (3, 9)], objective, max_len=max_len, seed=seed, epoch=3
    )
    whole = rows_of(batch_of(examples, np.arange(len(examples.lengths_B)), objective))
    assert sorted(whole) == list(range(len(examples.lengths_B)))
    parts: dict[int, tuple] = {}
    for rank in range(2):
        own = share_of_rank(examples.lengths_B, rank=rank, world_size=2)
        for part in split_microbatches(examples.lengths_B[own], max_tokens=256, min_microbatches=2):
            parts |= rows_of(batch_of(examples, own[part], objective))
    assert parts == whole


def test_a_pair_is_cls_a_sep_b_sep_and_targets_restore_the_text() -> None:
    block = block_of([[3, 4], [2, 5]], first_id=10)
    objective = objective_of({"pairs": "sop", "mask_ratio": 0.5})
    examples = examples_of([block], objective, max_len=32)
    for i, (ids, true_ids, is_masked, segments, positions, label) in rows_of(
        batch_of(examples, np.arange(2), objective)
    ).items():
        num_a, num_b = [(3, 4), (2, 5)][i]
        begin = [10, 17][i]
        a, b = list(range(begin, begin + num_a)), list(range(begin + num_a, begin + num_a + num_b))
        if label == 1:
            a, b = b, a
        assert true_ids == [2, *a, 3, *b, 3]
        assert segments == [0] * (len(a) + 2) + [1] * (len(b) + 1)
        assert positions == list(range(len(a) + len(b) + 3))
        assert sum(is_masked) == 4  # 3.5 of 7, rounded up
        assert [i for i, hidden in zip(ids, is_masked, strict=True) if not hidden] == [
            i for i, hidden in zip(true_ids, is_masked, strict=True) if not hidden
        ]


def test_a_window_is_cls_text_sep_of_full_length_with_separators_between_documents() -> None:
    block = block_of([[3, 4], [2], [30]], first_id=10)
    objective = objective_of({"pairs": "none"})
    examples = examples_of([block], objective, max_len=14)
    stream = [*range(10, 17), 3, *range(17, 19), 3, *range(19, 49), 3]
    batch = batch_of(examples, np.arange(3), objective)
    assert batch.lengths_B.tolist() == [14, 14, 14]
    assert len(batch.groups) == 1
    for _, true_ids, _, segments, _, label in rows_of(batch).values():
        ring = " ".join(map(str, stream + stream))
        assert " ".join(map(str, true_ids[1:-1])) in ring
        assert (true_ids[0], true_ids[-1], label) == (2, 3, 0)
        assert segments == [0] * 14


def test_a_batch_has_no_padding_and_only_ordinary_tokens_are_predicted() -> None:
    objective = objective_of({"segments": "sentence"})
    block = random_block(np.random.default_rng(0), num_documents=60)
    examples = examples_of([block], objective, max_len=64)
    batch = batch_of(examples, np.arange(len(examples.lengths_B)), objective)
    assert batch.num_tokens == len(batch.ids_N) == batch.lengths_B.sum()
    assert not (batch.ids_N == VOCABULARY.pad_id).any()
    assert not np.isin(batch.targets_P, [VOCABULARY.pad_id, VOCABULARY.cls_id, VOCABULARY.sep_id]).any()
    assert sum(g.num_rows * g.length for g in batch.groups) > batch.num_tokens  # groups of near-equal length
    assert (batch.rows_B == batch.indices_B).all()
