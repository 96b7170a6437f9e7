"""When a trial is stopped early: Ray Tune's stoppers, over examples seen. That is the same point in two
trials whatever their batches, and in one that goes on after a fault; `training_iteration` is neither."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from bertjobs.config.tune import SearchSection
from bertjobs.runs.tune.trial_records import Trial, score_of

VALUE, TIME = "value", "num_examples"
"""What trials are compared by, and what is the same point in two of them."""

MEDIAN_OF = 3
"""Trials that must have come as far before the median stops one."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long a trial is, at most, and from when on it may be stopped."""

    num_examples: int
    grace_examples: int


def stopper_for(
    search: SearchSection, course: Course, *, ended: Iterable[Trial], metric: str
) -> TrialScheduler:
    """Return Tune's stopper, told of the trials of earlier attempts."""
    if search.stopper == "none" or course.num_examples <= course.grace_examples:
        return FIFOScheduler()
    scheduler: TrialScheduler
    if search.stopper == "asha":
        scheduler = AsyncHyperBandScheduler(
            time_attr=TIME,
            metric=VALUE,
            mode="max",
            # At its end a trial is complete; there is no rung.
            max_t=course.num_examples - 1,
            grace_period=course.grace_examples,
            reduction_factor=search.reduction_factor,
            stop_last_trials=False,
        )
    else:
        scheduler = MedianStoppingRule(
            time_attr=TIME,
            metric=VALUE,
            mode="max",
            grace_period=course.grace_examples,
            min_samples_required=MEDIAN_OF,
            min_time_slice=math.inf,  # or it would pause a trial to let others come as far
        )
    replay(scheduler, ended, metric=metric)
    return scheduler


@dataclass(frozen=True)
class _Before:
    """A trial of an earlier attempt, as much of it as a stopper looks at."""

    trial_id: str


def replay(scheduler: Any, ended: Iterable[Trial], *, metric: str) -> None:
    """Show the stopper the evaluations of trials that ended before this attempt."""
    for trial in ended:
        before = _Before(f"before-{trial.number}")
        scheduler.on_trial_add(None, before)
        for evaluation in trial.history:
            result = {TIME: evaluation.num_examples, VALUE: score_of(evaluation, metric)}
            scheduler.on_trial_result(None, before, result)
