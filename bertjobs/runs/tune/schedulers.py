"""Which of Ray Tune's schedulers stops trials early, and from when on.

Trials are compared over examples seen: the same point in two trials whatever their batch sizes, and in one
that resumes after a fault. `training_iteration` is neither.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from bertjobs.config.tune import SearchSection
from bertjobs.runs.ray_internals import replay_results
from bertjobs.runs.tune.trial_records import Trial, score_of

VALUE, TIME = "value", "num_examples"
"""The keys of a trial's report that schedulers read: the score, higher is better, and the time attribute."""

MEDIAN_MIN_TRIALS = 3
"""Trials that must have reached a point before the median stops another one there."""


@dataclass(frozen=True, kw_only=True)
class SchedulerBounds:
    """Between which points, in examples seen, a trial may be stopped."""

    grace_examples: int
    max_examples: int
    """The length of the longest trial."""


def scheduler_for(
    search: SearchSection, bounds: SchedulerBounds, *, ended: Iterable[Trial], metric: str
) -> TrialScheduler:
    """Return the scheduler that `--stopper` names, with the results of earlier attempts' trials."""
    # Where even the longest trial ends within the grace period there is nothing to stop.
    if search.stopper == "none" or bounds.max_examples <= bounds.grace_examples:
        return FIFOScheduler()
    scheduler: TrialScheduler
    if search.stopper == "asha":
        scheduler = AsyncHyperBandScheduler(
            time_attr=TIME,
            metric=VALUE,
            mode="max",
            # At its end a trial is complete; there is no rung.
            max_t=bounds.max_examples - 1,
            grace_period=bounds.grace_examples,
            reduction_factor=search.reduction_factor,
            stop_last_trials=False,
        )
    else:
        scheduler = MedianStoppingRule(
            time_attr=TIME,
            metric=VALUE,
            mode="max",
            grace_period=bounds.grace_examples,
            min_samples_required=MEDIAN_MIN_TRIALS,
            min_time_slice=math.inf,  # or it would pause a trial until others have come as far
        )
    # Tune does not persist the rungs of ASHA, and its own files know no trial of an earlier attempt.
    for trial in ended:
        replay_results(
            scheduler,
            trial_id=f"before-{trial.number}",
            results=[{TIME: e.num_examples, VALUE: score_of(e, metric)} for e in trial.history],
        )
    return scheduler
