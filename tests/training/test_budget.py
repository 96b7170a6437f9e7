from typing import Any

import pytest

from bertjobs.config.pretrain import PretrainTrainSection
from bertjobs.config.sections import OptimSection
from bertjobs.training.pretraining.pretrain import budget_of
from bertjobs.training.schedule import Budget, RunTotals, lr_at, lr_at_share


def _optim(**optim: Any) -> OptimSection:
    return OptimSection.model_validate({"lr": 0.1, **optim})


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "wsd"])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.2])
def test_a_share_of_the_budget_has_the_rate_of_that_share_of_the_steps(
    schedule: str, warmup_ratio: float
) -> None:
    optim = _optim(schedule=schedule, warmup_ratio=warmup_ratio, decay_ratio=0.4)
    by_step = [lr_at(step, num_steps=20, optim=optim) for step in range(20)]
    by_share = [lr_at_share(step / 20, step_ratio=1 / 20, optim=optim) for step in range(20)]
    assert by_share == pytest.approx(by_step)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "wsd"])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("decay_ratio", [0.0, 1.0])
def test_no_share_has_a_negative_rate_or_one_above_the_peak(
    schedule: str, warmup_ratio: float, decay_ratio: float
) -> None:
    optim = _optim(schedule=schedule, warmup_ratio=warmup_ratio, decay_ratio=decay_ratio)
    rates = [lr_at_share(used / 50, step_ratio=1e-3, optim=optim) for used in range(50)]
    assert all(0 < rate <= 0.1 for rate in rates)


@pytest.mark.parametrize(
    ("budget", "totals", "used", "total_steps"),
    [
        (Budget(num_steps=40), RunTotals(num_steps=10, num_tokens=999, train_s=9.0), 0.25, 40),
        (Budget(num_tokens=1000), RunTotals(num_steps=10, num_tokens=250), 0.25, 40),
        (Budget(num_tokens=1000), RunTotals(num_steps=39, num_tokens=1010), 1.01, 39),
        (Budget(num_tokens=1000), RunTotals(), 0.0, 1),
        (Budget(train_s=8.0), RunTotals(num_steps=10, train_s=2.0), 0.25, 40),
        (Budget(train_s=8.0), RunTotals(num_steps=10, train_s=0.0), 0.0, 11),
    ],
)
def test_the_number_of_steps_is_known_or_estimated(
    budget: Budget, totals: RunTotals, used: float, total_steps: int
) -> None:
    assert budget.used_ratio(totals) == pytest.approx(used)
    assert budget.is_used_up(totals) == (used >= 1)
    assert budget.total_steps(totals) == total_steps


def test_the_rate_follows_tokens_and_time() -> None:
    optim = _optim(warmup_ratio=0.5)
    by_tokens = Budget(num_tokens=1000)
    assert by_tokens.lr(RunTotals(), batch_tokens=100, optim=optim) == pytest.approx(0.1 * 0.1 / 0.6)
    assert by_tokens.lr(RunTotals(num_steps=3, num_tokens=750), batch_tokens=9, optim=optim) == pytest.approx(
        0.05
    )
    by_time = Budget(train_s=60.0)
    first = by_time.lr(RunTotals(), batch_tokens=100, optim=optim)
    assert 0 < first < 0.001, "how long a step takes is not known yet"
    assert by_time.lr(RunTotals(num_steps=7, train_s=45.0), batch_tokens=9, optim=optim) == pytest.approx(
        0.05
    )


@pytest.mark.parametrize(
    ("train", "budget"),
    [
        ({}, Budget(num_steps=7)),
        ({"epochs": 3}, Budget(num_steps=21)),
        ({"max_steps": 5}, Budget(num_steps=5)),
        ({"max_tokens": 10**6}, Budget(num_tokens=10**6)),
        ({"max_time_s": 60.0}, Budget(train_s=60.0)),
    ],
)
def test_a_run_has_the_budget_that_was_given(train: dict[str, Any], budget: Budget) -> None:
    assert budget_of(PretrainTrainSection(**train), steps_per_epoch=7) == budget
