"""What is predicted and what is seen instead: exact counts, whole words, fair shares, alike in any batch."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.config.pretrain import ObjectiveSection
from bertjobs.errors import ModelError
from bertjobs.text.corpus.blocks import Block
from bertjobs.text.corpus.order import CorpusOrder
from bertjobs.text.pretraining.collate import PretrainBatch, collate_pretraining, draw_examples
from bertjobs.text.pretraining.hashed_random import Purpose, again, below, draws, row_keys, shares
from bertjobs.text.pretraining.masking import Masked, Masker
from bertjobs.text.pretraining.pairing import BlockSelection, Pairing
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.tokenizer_files import load_tokenizer
from bertjobs.text.vocabulary import make_vocabulary
from corpus_kit import Vocabulary, encoded, shards_of

VOCABULARY = Vocabulary()
ROWS = st.lists(
    st.lists(st.integers(0, VOCABULARY.vocab_size - 1), min_size=1, max_size=40), min_size=1, max_size=12
)


def masker(**objective: object) -> Masker:
    return Masker(ObjectiveSection.model_validate(objective), VOCABULARY)


def mask_rows(
    made: Masker, rows: list[list[int]], *, seed: int = 0, epoch: int = 0, first: int = 0
) -> Masked:
    lengths = np.array([len(row) for row in rows])
    starts = np.cumsum(lengths) - lengths
    ids = np.array([i for row in rows for i in row])
    indices = first + np.arange(len(rows))
    return made.mask(ids, starts_B=starts, lengths_B=lengths, indices_B=indices, seed=seed, epoch=epoch)


def plain_mask(
    row: list[int], objective: ObjectiveSection, *, seed: int, epoch: int, index: int
) -> dict[int, int]:
    """Mask one row with a loop over its words; return what is seen at each predicted position."""
    key = row_keys(np.array([index]), seed=seed, epoch=epoch, purpose=Purpose.MASKS)
    bits = {i: draws(key, i) for i, token in enumerate(row) if token not in (0, 2, 3, 4)}
    words: list[list[int]] = []
    for i in bits:
        continues = objective.whole_word and VOCABULARY.is_continuation_V[row[i]]
        if continues and words and words[-1][-1] == i - 1:
            words[-1].append(i)
        else:
            words.append([i])
    words.sort(key=lambda word: (int(bits[word[0]][0]) >> 29, word[0]))  # the upper 35 bits are random
    num_wanted = min(max(int(objective.mask_ratio * len(bits) + 0.5), 1), len(bits))
    rounding = shares(again(key))[0]
    seen: dict[int, int] = {}
    num_before = 0
    for word in words:
        missing = num_wanted - num_before
        num_before += len(word)
        if missing < len(word) and word is not words[0] and rounding * len(word) >= missing:
            continue
        action = shares(again(bits[word[0]]))[0]
        for i in word:
            if action < objective.mask_token_ratio:
                seen[i] = VOCABULARY.mask_id
            elif action < objective.mask_token_ratio + objective.random_token_ratio:
                seen[i] = 5 + int(below(again(again(bits[i])), VOCABULARY.vocab_size - 5)[0])
            else:
                seen[i] = row[i]
    return seen


@given(
    ROWS,
    st.integers(0, 2**31 - 1),
    st.integers(0, 100),
    st.booleans(),
    st.sampled_from([0.01, 0.15, 0.5, 1.0]),
)
def test_masks_are_those_of_a_loop_over_words(
    rows: list[list[int]], seed: int, epoch: int, whole_word: bool, ratio: float
) -> None:
    given = {"whole_word": whole_word, "mask_ratio": ratio, "mask_token_ratio": 0.5,
             "random_token_ratio": 0.25, "keep_token_ratio": 0.25}  # fmt: skip
    masked = mask_rows(masker(**given), rows, seed=seed, epoch=epoch, first=11)
    expected: dict[int, int] = {}
    start = 0
    for i, row in enumerate(rows):
        found = plain_mask(row, ObjectiveSection.model_validate(given), seed=seed, epoch=epoch, index=11 + i)
        expected |= {start + position: token for position, token in found.items()}
        start += len(row)
    assert dict(zip(masked.places_P.tolist(), masked.ids_P.tolist(), strict=True)) == expected


def num_open(row: list[int]) -> int:
    return sum(i not in (0, 2, 3, 4) for i in row)


@given(ROWS, st.integers(0, 2**31 - 1), st.sampled_from([0.01, 0.15, 0.5, 1.0]))
def test_each_row_has_its_exact_number_and_no_special_token(
    rows: list[list[int]], seed: int, ratio: float
) -> None:
    masked = mask_rows(masker(mask_ratio=ratio), rows, seed=seed)
    flat = [i for row in rows for i in row]
    assert masked.targets_P.tolist() == [flat[place] for place in masked.places_P]
    assert set(masked.targets_P.tolist()).isdisjoint({0, 2, 3, 4})
    assert (np.diff(masked.places_P) > 0).all()
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    counts = np.bincount(row_of[masked.places_P], minlength=len(rows))
    expected = [min(max(1, int(ratio * num_open(row) + 0.5)), num_open(row)) for row in rows]
    assert counts.tolist() == expected


@given(ROWS, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_masks_are_those_of_each_row_alone(rows: list[list[int]], seed: int, epoch: int) -> None:
    for whole_word in (False, True):
        made = masker(whole_word=whole_word, mask_ratio=0.3)
        together = mask_rows(made, rows, seed=seed, epoch=epoch, first=7)
        start, places, ids = 0, [], []
        for i, row in enumerate(rows):
            alone = mask_rows(made, [row], seed=seed, epoch=epoch, first=7 + i)
            places += (alone.places_P + start).tolist()
            ids += alone.ids_P.tolist()
            start += len(row)
        assert together.places_P.tolist() == places
        assert together.ids_P.tolist() == ids


@given(ROWS, st.integers(0, 2**31 - 1), st.sampled_from([0.05, 0.15, 0.5]))
def test_a_word_is_predicted_whole_with_one_action_or_not_at_all(
    rows: list[list[int]], seed: int, ratio: float
) -> None:
    masked = mask_rows(masker(whole_word=True, mask_ratio=ratio), rows, seed=seed)
    is_chosen = np.zeros(sum(map(len, rows)), dtype=bool)
    is_chosen[masked.places_P] = True
    seen = dict(zip(masked.places_P.tolist(), masked.ids_P.tolist(), strict=True))
    flat = np.array([i for row in rows for i in row])
    place = 0
    for row in rows:
        assert is_chosen[place : place + len(row)].any() == (num_open(row) > 0)
        for j in range(1, len(row)):
            here, before = place + j, place + j - 1
            continues = VOCABULARY.is_continuation_V[row[j]] and row[j - 1] not in (0, 2, 3, 4)
            if continues:
                assert is_chosen[here] == is_chosen[before]
            if continues and is_chosen[here]:
                assert (seen[here] == VOCABULARY.mask_id) == (seen[before] == VOCABULARY.mask_id)
        place += len(row)
    assert flat[masked.places_P].tolist() == masked.targets_P.tolist()


def test_whole_words_meet_the_share_on_average() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(5, 200, 60).tolist() for _ in range(3000)]
    masked = mask_rows(masker(whole_word=True), rows)
    assert abs(len(masked.places_P) / (3000 * 9) - 1) < 0.01


def test_random_tokens_are_all_but_special_ones_equally_often() -> None:
    rows = [[7] * 100] * 400
    objective = {
        "mask_ratio": 1.0,
        "mask_token_ratio": 0.0,
        "random_token_ratio": 1.0,
        "keep_token_ratio": 0.0,
    }
    counts = np.bincount(mask_rows(masker(**objective), rows).ids_P, minlength=200)
    assert counts[:5].sum() == 0
    expected = 40_000 / 195
    assert abs(counts[5:] - expected).max() < 6 * np.sqrt(expected)


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.3, 0.3, 0.4)])
def test_all_four_numbers_are_parameters(shares: tuple[float, float, float]) -> None:
    names = ("mask_token_ratio", "random_token_ratio", "keep_token_ratio")
    rows = [[7] * 100] * 1000
    masked = mask_rows(masker(mask_ratio=0.5, **dict(zip(names, shares, strict=True))), rows)
    assert len(masked.places_P) == 50_000
    num_masks, num_kept = (masked.ids_P == 4).sum(), (masked.ids_P == 7).sum()
    assert abs(num_masks / 50_000 - shares[0]) < 0.01
    assert abs(num_kept / 50_000 - shares[2] - shares[1] / 195) < 0.01


def test_every_position_is_chosen_equally_often() -> None:
    rows = [list(range(5, 65))] * 20_000
    masked = mask_rows(masker(), rows)
    counts = np.bincount(masked.targets_P, minlength=65)[5:]
    assert abs(counts / 20_000 - 9 / 60).max() < 6 * np.sqrt(0.15 / 20_000)


def test_other_epochs_and_seeds_have_other_masks() -> None:
    rows = [list(range(5, 125))] * 50
    one = mask_rows(masker(), rows, seed=1, epoch=1)
    for seed, epoch in ((1, 2), (2, 1), (0, 0)):
        other = mask_rows(masker(), rows, seed=seed, epoch=epoch)
        assert len(np.intersect1d(one.places_P, other.places_P)) < 0.3 * len(one.places_P)


def test_a_vocabulary_without_word_beginnings_refuses_whole_words(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers.models import BPE

    from bertjobs.text.tokenizer import WordPieceTokenizer

    specials = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    fast = FastTokenizer(BPE({token: i for i, token in enumerate((*specials.values(), "a"))}, []))
    tokenizer = WordPieceTokenizer(fast, specials)
    Masker(ObjectiveSection(), tokenizer)
    with pytest.raises(ModelError, match="The vocabulary is BPE, whose tokens do not tell where words begin"):
        Masker(ObjectiveSection(whole_word=True), tokenizer)


def batches(
    tokenizer: Tokenizer, blocks: list[Block], *, num_epochs: int, **objective: object
) -> list[PretrainBatch]:
    section = ObjectiveSection.model_validate(objective)
    pairing = Pairing(section, 128, sep_id=tokenizer.sep_id)
    made = Masker(section, tokenizer)
    order = CorpusOrder([pairing.num_examples(b) for b in blocks], seed=3, shuffle_blocks=2)
    found = []
    for step in range(num_epochs * order.steps_per_epoch(64)):
        epoch, chosen = order.batch(step, 64)
        parts = [BlockSelection(block=blocks[n], indices=i, first=order.first_of(n)) for n, i in chosen]
        examples = draw_examples(pairing, parts, seed=3, epoch=epoch)
        rows = np.arange(len(examples.lengths_B))
        found.append(collate_pretraining(examples, rows, masker=made, tokenizer=tokenizer))
    return found


@pytest.fixture(params=["sample", pytest.param("wikitext-2", marks=pytest.mark.real_data)])
def corpus(request: pytest.FixtureRequest) -> tuple[Tokenizer, list[Block], int]:
    """A corpus with wordpieces that cut many of its words, and epochs that predict 100,000 of them."""
    if request.param == "sample":
        path = request.getfixturevalue("sample") / "corpus" / "train.tokens"
        tokenizer = make_vocabulary(shards_of(path), kind="wordpiece", size=150, min_count=5)
    else:
        real_data = request.getfixturevalue("real_data")
        path = real_data / "wikitext-2" / "wiki.train.tokens"
        tokenizer = load_tokenizer(real_data / "vocab" / "bert-base-uncased-vocab.txt")
    num_epochs = 14 if request.param == "sample" else 4
    return tokenizer, encoded(path, tokenizer=tokenizer, block_bytes=1 << 17), num_epochs


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_shares_hold_over_100_000_predicted_positions(
    corpus: tuple[Tokenizer, list[Block], int], whole_word: bool
) -> None:
    tokenizer, blocks, num_epochs = corpus
    num_open_tokens = num_predicted = num_masks = num_kept = num_random = num_pairs = num_next = 0
    for batch in batches(tokenizer, blocks, num_epochs=num_epochs, whole_word=whole_word):
        true_ids = batch.ids_N.copy()
        true_ids[batch.masked_P] = batch.targets_P
        is_special = np.isin(true_ids, tokenizer.special_ids[tokenizer.special_ids != tokenizer.unk_id])
        assert not is_special[batch.masked_P].any()
        num_open_tokens += (~is_special).sum()
        num_predicted += len(batch.masked_P)
        seen = batch.ids_N[batch.masked_P]
        num_masks += (seen == tokenizer.mask_id).sum()
        num_kept += (seen == batch.targets_P).sum()
        num_random += (~np.isin(seen, [tokenizer.mask_id]) & (seen != batch.targets_P)).sum()
        num_pairs += len(batch.labels_B)
        num_next += (batch.labels_B == 0).sum()
        if whole_word:
            assert_words_are_whole(tokenizer, true_ids, is_special, batch.masked_P)
    assert num_predicted > 100_000
    assert abs(num_predicted / num_open_tokens - 0.15) < 0.005
    assert abs(num_masks / num_predicted - 0.8) < 0.005
    chance = 0.1 / (tokenizer.vocab_size - len(tokenizer.special_ids))  # a random token may be the true one
    assert abs(num_kept / num_predicted - 0.1 - chance) < 0.005
    assert abs(num_random / num_predicted - 0.1 + chance) < 0.005
    assert abs(num_next / num_pairs - 0.5) < 0.01


def assert_words_are_whole(
    tokenizer: Tokenizer, true_ids: np.ndarray, is_special: np.ndarray, masked: np.ndarray
) -> None:
    is_masked = np.zeros(len(true_ids), dtype=bool)
    is_masked[masked] = True
    continues = tokenizer.is_continuation_V[true_ids[1:]] & ~is_special[:-1]
    assert continues.any()
    assert (is_masked[1:] == is_masked[:-1])[continues].all()
