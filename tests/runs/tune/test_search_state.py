"""The state of a search: files that the next driver reads, the table that users see, checkpoints removed."""

from pathlib import Path

import pytest

from bertjobs.runs.tune.search_state import MAX_ROWS, SearchState
from bertjobs.runs.tune.trial_records import Search, folder_of, read_trials, write_trial
from bertjobs.storage import JobDir
from runs.tune.trials import SEARCH, evaluation, history, trial


@pytest.fixture
def job_dir(tmp_path: Path) -> JobDir:
    return JobDir(str(tmp_path), "j-1")


def checkpoint(job_dir: JobDir, number: int) -> None:
    folder_of(job_dir, number).write_bytes("checkpoints/step-00000010/model.safetensors", b"weights")


def has_checkpoint(job_dir: JobDir, number: int) -> bool:
    return folder_of(job_dir, number).exists("checkpoints")


def test_a_state_writes_each_change_at_once(job_dir: JobDir) -> None:
    state = SearchState(job_dir, search=SEARCH)
    state.begin(1, {"optim.lr": 1e-4}, {"optim": {"lr": 1e-4}})
    assert [t.state for t in read_trials(job_dir)] == ["running"]
    state.set_history(1, history(0.5))
    assert read_trials(job_dir)[0].history == (evaluation(0.5),)
    state.end(1, "stopped", reason="asha", train_s=2.0)
    assert read_trials(job_dir) == state.trials
    assert state.trials[0].reason == "asha"


def test_a_next_driver_keeps_what_has_ended_and_begins_with_what_was_broken_off(job_dir: JobDir) -> None:
    for one in (trial(1, 0.5), trial(2, 0.1, state="running"), trial(3, 0.2, state="failed")):
        write_trial(job_dir, one)
    state = SearchState(job_dir, search=SEARCH, trials=read_trials(job_dir))
    assert state.remaining() == [2, 4]
    assert state.values_of(2) == {"optim.lr": 1e-4}
    assert state.values_of(4) is None
    state.begin(2, {"optim.lr": 1e-4}, {})
    assert state.trials[1].history == (evaluation(0.1),)  # it goes on from its checkpoint
    assert [t.number for t in state.ended] == [1, 3]


def test_a_search_that_came_to_nothing_tries_what_failed_again(job_dir: JobDir) -> None:
    failed = [trial(n, state="failed", reason="OutOfMemory", message="No room.") for n in (1, 2)]
    state = SearchState(job_dir, search=SEARCH, trials=failed)
    assert state.remaining() == [1, 2, 3, 4]
    state.begin(1, {}, {})
    assert (state.trials[0].state, state.trials[0].reason) == ("running", "")
    assert SearchState(job_dir, search=SEARCH, trials=[*failed, trial(3, 0.5)]).remaining() == [4]


def test_only_the_best_trial_that_has_ended_and_those_that_run_keep_checkpoints(job_dir: JobDir) -> None:
    state = SearchState(job_dir, search=SEARCH)
    for number in (1, 2, 3, 4):
        state.begin(number, {}, {})
        checkpoint(job_dir, number)
    state.set_history(1, history(0.5))
    state.set_history(2, history(0.7))
    state.end(1, "finished")
    assert has_checkpoint(job_dir, 1)
    state.end(2, "stopped")
    state.end(3, "failed", reason="TrainingError", message="The loss is nan.")
    assert [has_checkpoint(job_dir, n) for n in (1, 2, 3, 4)] == [False, True, False, True]


def test_checkpoints_that_a_killed_driver_left_are_removed_by_the_next(job_dir: JobDir) -> None:
    for number, value in ((1, 0.5), (2, 0.7)):
        write_trial(job_dir, trial(number, value))
        checkpoint(job_dir, number)
    SearchState(job_dir, search=SEARCH, trials=read_trials(job_dir))
    assert [has_checkpoint(job_dir, n) for n in (1, 2)] == [False, True]


def test_the_live_table_says_what_people_want_to_know(job_dir: JobDir) -> None:
    state = SearchState(job_dir, search=SEARCH, trials=[trial(1, 0.5, 0.6), trial(2, 0.3, state="stopped")])
    state.begin(3, {"optim.lr": 2e-4}, {})
    report = state.progress({3: {"step": 7, "epoch": 0.7123, "examples_per_s": 50.0}})
    assert {k: report[k] for k in ("step", "num_trials", "num_ended", "num_stopped_early", "num_failed")} == {
        "step": 7, "num_trials": 4, "num_ended": 2, "num_stopped_early": 1, "num_failed": 0,
    }  # fmt: skip
    assert (report["metric"], report["best"]) == ("accuracy", {"number": 1, "value": 0.6})
    assert report["examples_per_s"] == 50.0
    assert report["trials"] == [
        {"number": 1, "values": {"optim.lr": 1e-4}, "epoch": 2.0, "value": 0.6, "state": "finished"},
        {"number": 2, "values": {"optim.lr": 1e-4}, "epoch": 1.0, "value": 0.3, "state": "stopped"},
        {"number": 3, "values": {"optim.lr": 2e-4}, "epoch": 0.71, "value": None, "state": "running"},
    ]
    state.end(3, "failed", reason="TrainingError", message="nan")
    assert state.progress({3: {"step": 9, "epoch": 0.9, "examples_per_s": 50.0}})["examples_per_s"] == 0


def test_a_long_search_shows_what_runs_and_the_best(job_dir: JobDir) -> None:
    many = Search(metric="accuracy", space={}, algorithm="random", stopper="none", num_trials=100)
    ended = [trial(n, n / 100) for n in range(1, 100)]
    state = SearchState(job_dir, search=many, trials=[*ended, trial(100, state="running")])
    rows = state.progress({})["trials"]
    assert len(rows) == MAX_ROWS
    assert [row["number"] for row in rows] == list(range(61, 101))
