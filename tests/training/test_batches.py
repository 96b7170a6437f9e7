import numpy as np
import pytest

from bertjobs.config.finetune import TrainSection
from bertjobs.training.batches import make_batch_sampler


def test_an_epoch_uses_every_row_once_and_ends_with_a_smaller_batch() -> None:
    plan = make_batch_sampler(70, train=TrainSection(batch_size=8, epochs=2, seed=3))
    assert (plan.steps_per_epoch, plan.num_steps) == (9, 18)
    for epoch in range(2):
        batches = [plan.rows_of(step) for step in range(9 * epoch, 9 * epoch + 9)]
        assert [len(batch) for batch in batches] == [8] * 8 + [6]
        assert sorted(np.concatenate(batches)) == list(range(70))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    plan = make_batch_sampler(70, train=TrainSection(batch_size=70, epochs=2, seed=3))
    other = make_batch_sampler(70, train=TrainSection(batch_size=70, epochs=2, seed=4))
    assert not np.array_equal(plan.rows_of(0), plan.rows_of(1))
    assert not np.array_equal(plan.rows_of(0), other.rows_of(0))
    assert np.array_equal(
        plan.rows_of(0), make_batch_sampler(70, train=TrainSection(batch_size=70, seed=3)).rows_of(0)
    )


@pytest.mark.parametrize("max_steps", [1, 9, 10, 100])
def test_max_steps_overrides_the_epochs(max_steps: int) -> None:
    plan = make_batch_sampler(70, train=TrainSection(batch_size=8, epochs=2, max_steps=max_steps))
    assert plan.num_steps == max_steps
    ends = [done for done in range(1, max_steps + 1) if plan.ends_epoch(done)]
    assert ends == sorted({*range(9, max_steps + 1, 9), max_steps})
