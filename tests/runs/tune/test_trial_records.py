"""The files of trials, and which trial is the best."""

from pathlib import Path

import pytest

from bertjobs.errors import ConfigError
from bertjobs.runs.tune.trial_records import (
    Trial,
    best_trial,
    find_trial,
    rank,
    read_search,
    read_trials,
    write_trial,
)
from bertjobs.storage import JobDir
from runs.tune.trials import SEARCH, evaluation, trial


@pytest.fixture
def job_dir(tmp_path: Path) -> JobDir:
    return JobDir(str(tmp_path), "j-1")


def test_trials_come_back_from_their_files_as_they_were(job_dir: JobDir) -> None:
    written = [
        trial(10, 0.5, 0.6, by_length=({"above": 0.0, "num_correct": 3},)),
        trial(2, state="failed", reason="OutOfMemory", message="It did not fit."),
        trial(1, 0.4, state="running"),
    ]
    for one in written:
        write_trial(job_dir, one)
    SEARCH.write(job_dir)
    assert read_trials(job_dir) == sorted(written, key=lambda t: t.number)
    assert read_search(job_dir) == SEARCH


def test_a_search_that_has_not_begun_has_no_files(job_dir: JobDir) -> None:
    assert read_search(job_dir) is None
    assert read_trials(job_dir) == []


def test_the_best_is_the_first_of_equals_and_never_one_that_failed() -> None:
    trials = [trial(1, 0.5, 0.7, 0.6), trial(2, 0.7), trial(3, 0.9, state="failed"), trial(4)]
    assert [t.number for t in rank(trials, "accuracy")] == [1, 2]
    best = best_trial(trials, "accuracy")
    assert best is not None
    assert (best.number, best.best("accuracy")) == (1, evaluation(0.7, step=20))
    assert best_trial([trial(1)], "accuracy") is None


def test_a_lower_loss_is_better() -> None:
    low = Trial(
        number=1, values={}, config={}, history=(evaluation(0.1, loss=0.5), evaluation(0.9, loss=0.7))
    )
    high = Trial(number=2, values={}, config={}, history=(evaluation(0.9, loss=0.6),))
    assert [t.number for t in rank([high, low], "loss")] == [1, 2]
    assert low.best("loss") == evaluation(0.1, loss=0.5)


def test_a_trial_is_found_by_its_number_or_as_the_best() -> None:
    trials = [trial(1, 0.5), trial(2, 0.7)]
    assert find_trial(trials, "accuracy", number=None, named="--from-trial j-1").number == 2
    assert find_trial(trials, "accuracy", number=1, named="--from-trial j-1:1").number == 1
    with pytest.raises(ConfigError) as e:
        find_trial(trials, "accuracy", number=9, named="--from-trial j-1:9")
    assert (e.value.message, e.value.hint) == (
        "--from-trial j-1:9: that search has no trial 9", "It has the trials 1 to 2.",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="that search has no trial with a result yet"):
        find_trial([], "accuracy", number=None, named="--from-trial j-1")
