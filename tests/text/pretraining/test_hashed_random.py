"""The vectorised draws compared with SplitMix64 in Python, one number at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.text.pretraining.hashed_random import Purpose, again, below, draws, row_keys, shares

UINT64 = st.integers(0, 2**64 - 1)
SEEDS = st.integers(0, 2**31 - 1)


class SplitMix64:
    """The generator as published: a state that grows by a constant, and a function that scrambles it."""

    def __init__(self, state: int) -> None:
        self.state = state

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64
        return scrambled(self.state)


def scrambled(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_the_plain_version_gives_the_published_numbers() -> None:
    """The first numbers from seed 1234567, as Rosetta Code and others list them."""
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.lists(UINT64, min_size=1, max_size=5), st.integers(0, 30))
def test_a_draw_is_the_number_at_its_place_in_the_sequence(keys: list[int], place: int) -> None:
    found = draws(np.array(keys, dtype=np.uint64), place)
    for key, bits in zip(keys, found.tolist(), strict=True):
        generator = SplitMix64(key)
        assert bits == [generator.next() for _ in range(place + 1)][-1]


@given(SEEDS, SEEDS, st.sampled_from(Purpose), st.lists(st.integers(0, 2**40), min_size=1, max_size=5))
def test_keys_hash_seed_epoch_purpose_and_index(
    seed: int, epoch: int, purpose: Purpose, indices: list[int]
) -> None:
    found = row_keys(np.array(indices), seed=seed, epoch=epoch, purpose=purpose).tolist()
    base = SplitMix64(SplitMix64(SplitMix64(seed).next() + epoch).next() + purpose).next()
    assert found == [scrambled((index * 0x9E3779B97F4A7C15 + base) % 2**64) for index in indices]


@given(UINT64, st.integers(1, 2**32 - 1))
def test_numbers_below_a_bound_and_shares_come_from_the_upper_bits(bits: int, bound: int) -> None:
    array = np.array([bits], dtype=np.uint64)
    assert below(array, bound).tolist() == [(bits >> 32) * bound >> 32]
    assert shares(array).tolist() == [(bits >> 11) / 2**53]
    assert again(array).tolist() == [scrambled(bits ^ 0xD1B54A32D192ED03)]


def test_the_numbers_stay_what_they_were() -> None:
    """Golden: a run that a later version resumes gets the same pairs and masks."""
    keys = row_keys(np.arange(3), seed=7, epoch=2, purpose=Purpose.MASKS)
    assert keys.tolist() == GOLDEN_KEYS
    assert draws(keys, 5).tolist() == GOLDEN_DRAWS


GOLDEN_KEYS = [9880665001308963348, 10926756670064610621, 7762798002271061464]
GOLDEN_DRAWS = [2988581939062737667, 9414084677411369553, 11212100373071777744]
