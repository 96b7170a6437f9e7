"""Checkpoints have names of their own in each attempt, and two of them are kept."""

from bertjobs.training.checkpoints.checkpoint_names import (
    checkpoint_name,
    checkpoints_at,
    checkpoints_before,
    step_of,
    superseded,
)

NAMES = ["step-00000002-a1", "step-00000004", "step-00000004-a1", "step-00000004-a10"]
NAMES += ["step-00000006-a2", "x"]


def test_two_attempts_never_write_under_one_name() -> None:
    assert checkpoint_name(40) == "step-00000040"
    assert {checkpoint_name(40, writer=f"a{n}") for n in (1, 2)} == {"step-00000040-a1", "step-00000040-a2"}
    assert [step_of(name) for name in NAMES] == [2, 4, 4, 4, 6, None]


def test_of_one_step_the_latest_attempt_comes_first() -> None:
    assert checkpoints_at(NAMES, 4) == ["step-00000004-a10", "step-00000004-a1", "step-00000004"]
    assert checkpoints_at(NAMES, 5) == []


def test_a_damaged_checkpoint_is_replaced_by_the_latest_before_it() -> None:
    assert checkpoints_before(NAMES, "step-00000004-a1") == [
        "step-00000004-a10",
        "step-00000004",
        "step-00000002-a1",
    ]


def test_the_published_one_its_predecessor_and_the_best_are_kept() -> None:
    removed = superseded(NAMES, published="step-00000006-a2", previous="step-00000004-a1", best_step=2)
    assert removed == ["step-00000004", "x"], "and what a later attempt wrote"
    assert superseded(["a"], published="b", previous=None, best_step=None) == ["a"]
