"""When a trial is stopped early, also after a fault."""

from typing import Any

import pytest

from bertjobs.config import ConfigLayer, load_config
from bertjobs.runs.tune.schedulers import SchedulerBounds, scheduler_for
from bertjobs.runs.tune.trial_records import Trial, TrialEvaluation


@pytest.mark.parametrize("stopper", ["asha", "median"])
def test_a_scheduler_knows_the_trials_of_an_earlier_attempt(stopper: str) -> None:
    config = load_config("tune", ConfigLayer({"search.stopper": stopper}, {}, is_given=False))
    bounds = SchedulerBounds(grace_examples=100, max_examples=900)
    ended = [trial_with(n, 0.5 + n / 10, at=(100, 300)) for n in (1, 2, 3)]
    fresh = scheduler_for(config.search, bounds, ended=(), metric="accuracy")  # type: ignore[attr-defined]
    informed = scheduler_for(config.search, bounds, ended=ended, metric="accuracy")  # type: ignore[attr-defined]
    poor = trial_with(9, 0.1, at=(100,))
    assert decision_on(fresh, poor) == "CONTINUE"
    assert decision_on(informed, poor) == "STOP"
    assert decision_on(informed, trial_with(8, 0.95, at=(100,))) == "CONTINUE"


def test_a_complete_trial_is_never_stopped_at_its_end() -> None:
    config = load_config("tune")
    scheduler = scheduler_for(
        config.search, SchedulerBounds(grace_examples=100, max_examples=900), ended=(), metric="accuracy"
    )  # type: ignore[attr-defined]
    for number in (1, 2, 3):
        assert decision_on(scheduler, trial_with(number, 0.9, at=(900,))) == "CONTINUE"
    assert all(milestone < 900 for milestone, _ in scheduler._brackets[0]._rungs)  # type: ignore[attr-defined]


class _Stub:
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def decision_on(scheduler: Any, trial: Trial) -> str:
    stub = _Stub(f"now-{trial.number}")
    scheduler.on_trial_add(None, stub)
    last = trial.history[-1]
    report = {"num_examples": last.num_examples, "value": last.value_of("accuracy")}
    return str(scheduler.on_trial_result(None, stub, report))


def trial_with(number: int, accuracy: float, *, at: tuple[int, ...]) -> Trial:
    history = tuple(
        TrialEvaluation(
            num_examples=n, step=n, epoch=n / 100, scores={"accuracy": accuracy, "mcc": 0, "f1": 0, "loss": 1}
        )
        for n in at
    )
    return Trial(number=number, values={}, config={}, state="finished", history=history)
