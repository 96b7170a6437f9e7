import pytest

from bertjobs.config.sections import OptimSection
from bertjobs.errors import ConfigError
from bertjobs.training.schedule import check_schedule, lr_at, num_warmup_steps


def _course(num_steps: int, **optim: object) -> list[float]:
    section = OptimSection.model_validate({"lr": 0.1, **optim})
    return [lr_at(step, num_steps=num_steps, optim=section) for step in range(num_steps)]


def test_linear_rises_to_the_peak_and_falls_towards_zero() -> None:
    assert _course(10, schedule="linear", warmup_ratio=0.2) == pytest.approx(
        [0.1 / 3, 0.2 / 3, 0.1, 0.0875, 0.075, 0.0625, 0.05, 0.0375, 0.025, 0.0125]
    )


def test_without_warmup_the_first_step_is_at_the_peak() -> None:
    for schedule in ("linear", "cosine", "constant", "wsd"):
        assert _course(7, schedule=schedule, warmup_ratio=0.0)[0] == 0.1


def test_cosine_is_halfway_down_in_the_middle() -> None:
    assert _course(4, schedule="cosine", warmup_ratio=0.0) == pytest.approx(
        [0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5
    )


def test_constant_stays_after_warmup() -> None:
    assert _course(5, schedule="constant", warmup_ratio=0.2) == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1])


def test_wsd_decays_over_its_last_share_only() -> None:
    assert _course(10, schedule="wsd", warmup_ratio=0.1, decay_ratio=0.4) == pytest.approx(
        [0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.075, 0.05, 0.025]
    )


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "wsd"])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 50])
def test_no_step_is_spent_at_zero_or_above_the_peak(
    schedule: str, warmup_ratio: float, num_steps: int
) -> None:
    course = _course(num_steps, schedule=schedule, warmup_ratio=warmup_ratio, decay_ratio=0.0)
    assert all(0 < lr <= 0.1 for lr in course)


def test_warmup_over_all_steps_still_reaches_the_peak_at_the_last() -> None:
    optim = OptimSection(warmup_ratio=1.0, lr=0.1)
    assert num_warmup_steps(5, optim=optim) == 4
    assert lr_at(4, num_steps=5, optim=optim) == 0.1


def test_wsd_phases_longer_than_the_run_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--warmup-ratio 0.5 and --decay-ratio 0.6 add up to more"):
        check_schedule(OptimSection(schedule="wsd", warmup_ratio=0.5, decay_ratio=0.6))
    check_schedule(OptimSection(schedule="linear", warmup_ratio=0.5, decay_ratio=0.6))
