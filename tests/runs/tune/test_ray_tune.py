"""What the search does when Tune says that a trial has ended."""

from types import SimpleNamespace
from typing import Any

import pytest

from bertjobs.runs.tune import ray_tune
from bertjobs.runs.tune.progress_actor import ProgressActor
from bertjobs.runs.tune.ray_tune import _TrialCallback


class State:
    """A state of the search that only remembers how trials ended."""

    ended: tuple[Any, ...] = ()

    def __init__(self) -> None:
        self.ends: dict[int, str] = {}

    def end(self, number: int, state: str, **_: Any) -> None:
        self.ends[number] = state


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The placement groups that were removed."""
    found: list[str] = []
    monkeypatch.setattr(ray_tune, "remove_placement_group", found.append)
    return found


@pytest.fixture
def progress() -> ProgressActor:
    """The progress actor in this process; trial 3 has recorded its workers."""
    progress = ProgressActor()
    progress.set_placement(3, "the workers of trial 3")  # type: ignore[arg-type]
    return progress


@pytest.fixture
def callback(progress: ProgressActor) -> _TrialCallback:
    run = SimpleNamespace(
        config=SimpleNamespace(search=SimpleNamespace(stopper="asha")),
        job_dir=SimpleNamespace(write_json=lambda *_: None),
        reporter=SimpleNamespace(publish_checkpoint=lambda *_: None),
    )
    return _TrialCallback(run, work=SimpleNamespace(progress=progress), state=State())  # type: ignore[arg-type]


def trial(number: int, **result: Any) -> Any:
    return SimpleNamespace(config={"number": number}, last_result=result, error_file=None)


def test_the_workers_of_a_trial_that_is_stopped_are_ended(callback, removed):
    callback.on_trial_complete(1, [], trial(3, time_total_s=1.0))
    assert callback._state.ends == {3: "stopped"}
    assert removed == ["the workers of trial 3"]


def test_the_workers_of_a_trial_whose_actor_was_killed_are_ended(callback, removed):
    callback.on_trial_error(1, [], trial(3))
    assert callback._state.ends == {3: "failed"}
    assert removed == ["the workers of trial 3"]


def test_the_workers_of_other_trials_go_on(callback, removed):
    callback.on_trial_complete(1, [], trial(2, time_total_s=1.0))
    callback.on_trial_error(1, [], trial(4))
    assert removed == []


def test_trials_that_have_all_stopped_moving_are_no_sign_of_life(callback):
    sent = []
    callback._run.reporter.progress = sent.append
    callback._state.progress = lambda latest: {"step": sum(values["step"] for values in latest.values())}
    for _ in range(3):
        callback._report({1: {"step": 4}, 2: {"step": 2}})
    assert sent == [{"step": 6}], "the search is stalled where nothing follows"
    callback._report({1: {"step": 4}, 2: {"step": 3}})
    assert sent == [{"step": 6}, {"step": 7}]
    # A long evaluation is one, although no step follows.
    for num_signs in (1, 1, 2):
        callback._report({1: {"step": 4, "num_signs": num_signs}, 2: {"step": 3}})
    assert len(sent) == 4
