"""What is kept of trials: files that a next driver reads, the table that people see, room given back."""

from pathlib import Path
from typing import Any

import pytest

from bertjobs.config import ConfigLayer, load_config
from bertjobs.config.search_space import search_space
from bertjobs.errors import ConfigError
from bertjobs.runs.tune.samplers import proposals_for
from bertjobs.runs.tune.search_state import MAX_ROWS, Ledger
from bertjobs.runs.tune.trial_records import (
    Evaluation,
    Search,
    Trial,
    best_trial,
    find_trial,
    folder_of,
    rank,
    read_search,
    read_trials,
    write_trial,
)
from bertjobs.storage import JobDir

SEARCH = Search(
    metric="accuracy",
    space={"optim.lr": "loguniform:1e-5,1e-3"},
    algorithm="random",
    stopper="asha",
    num_trials=4,
)


def evaluation(accuracy: float, *, step: int = 10, loss: float = 1.0) -> Evaluation:
    return Evaluation(
        num_examples=step * 16, step=step, epoch=step / 10, accuracy=accuracy, mcc=0.1, f1=0.2, loss=loss
    )


def trial(number: int, *accuracies: float, state: Any = "finished", **more: Any) -> Trial:
    history = tuple(evaluation(a, step=10 * (i + 1)) for i, a in enumerate(accuracies))
    return Trial(number=number, values={"optim.lr": 1e-4}, config={}, state=state, history=history, **more)


def history(*accuracies: float) -> list[dict[str, Any]]:
    return trial(1, *accuracies).to_json()["history"]


@pytest.fixture
def job_dir(tmp_path: Path) -> JobDir:
    return JobDir(str(tmp_path), "j-1")


def checkpoint(job_dir: JobDir, number: int) -> None:
    folder_of(job_dir, number).write_bytes("checkpoints/step-00000010/model.safetensors", b"weights")


def has_checkpoint(job_dir: JobDir, number: int) -> bool:
    return folder_of(job_dir, number).exists("checkpoints")


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
        "--from-trial j-1:9: that search has no trial 9.", "It has the trials 1 to 2.",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="that search has no trial with a result yet"):
        find_trial([], "accuracy", number=None, named="--from-trial j-1")


def test_a_ledger_writes_each_change_at_once(job_dir: JobDir) -> None:
    ledger = Ledger(job_dir, search=SEARCH)
    ledger.begin(1, {"optim.lr": 1e-4}, {"optim": {"lr": 1e-4}})
    assert [t.state for t in read_trials(job_dir)] == ["running"]
    ledger.evaluated(1, history(0.5))
    assert read_trials(job_dir)[0].history == (evaluation(0.5),)
    ledger.end(1, "stopped", reason="asha", train_s=2.0)
    assert read_trials(job_dir) == ledger.trials
    assert ledger.trials[0].reason == "asha"


def test_a_next_driver_keeps_what_has_ended_and_begins_with_what_was_broken_off(job_dir: JobDir) -> None:
    for one in (trial(1, 0.5), trial(2, 0.1, state="running"), trial(3, 0.2, state="failed")):
        write_trial(job_dir, one)
    ledger = Ledger(job_dir, search=SEARCH, trials=read_trials(job_dir))
    assert ledger.remaining() == [2, 4]
    assert ledger.values_of(2) == {"optim.lr": 1e-4}
    assert ledger.values_of(4) is None
    ledger.begin(2, {"optim.lr": 1e-4}, {})
    assert ledger.trials[1].history == (evaluation(0.1),)  # it goes on from its checkpoint
    assert [t.number for t in ledger.ended] == [1, 3]


def test_a_search_that_came_to_nothing_tries_what_failed_again(job_dir: JobDir) -> None:
    failed = [trial(n, state="failed", reason="OutOfMemory", message="No room.") for n in (1, 2)]
    ledger = Ledger(job_dir, search=SEARCH, trials=failed)
    assert ledger.remaining() == [1, 2, 3, 4]
    ledger.begin(1, {}, {})
    assert (ledger.trials[0].state, ledger.trials[0].reason) == ("running", "")
    assert Ledger(job_dir, search=SEARCH, trials=[*failed, trial(3, 0.5)]).remaining() == [4]


def test_only_the_best_trial_that_has_ended_and_those_that_run_keep_checkpoints(job_dir: JobDir) -> None:
    ledger = Ledger(job_dir, search=SEARCH)
    for number in (1, 2, 3, 4):
        ledger.begin(number, {}, {})
        checkpoint(job_dir, number)
    ledger.evaluated(1, history(0.5))
    ledger.evaluated(2, history(0.7))
    ledger.end(1, "finished")
    assert has_checkpoint(job_dir, 1)
    ledger.end(2, "stopped")
    ledger.end(3, "failed", reason="TrainingError", message="The loss is nan.")
    assert [has_checkpoint(job_dir, n) for n in (1, 2, 3, 4)] == [False, True, False, True]


def test_checkpoints_that_a_killed_driver_left_are_removed_by_the_next(job_dir: JobDir) -> None:
    for number, value in ((1, 0.5), (2, 0.7)):
        write_trial(job_dir, trial(number, value))
        checkpoint(job_dir, number)
    Ledger(job_dir, search=SEARCH, trials=read_trials(job_dir))
    assert [has_checkpoint(job_dir, n) for n in (1, 2)] == [False, True]


def test_the_live_table_says_what_people_want_to_know(job_dir: JobDir) -> None:
    ledger = Ledger(job_dir, search=SEARCH, trials=[trial(1, 0.5, 0.6), trial(2, 0.3, state="stopped")])
    ledger.begin(3, {"optim.lr": 2e-4}, {})
    report = ledger.live({3: {"step": 7, "epoch": 0.7123, "examples_per_s": 50.0}})
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
    ledger.end(3, "failed", reason="TrainingError", message="nan")
    assert ledger.live({3: {"step": 9, "epoch": 0.9, "examples_per_s": 50.0}})["examples_per_s"] == 0


def test_a_long_search_shows_what_runs_and_the_best(job_dir: JobDir) -> None:
    many = Search(metric="accuracy", space={}, algorithm="random", stopper="none", num_trials=100)
    ended = [trial(n, n / 100) for n in range(1, 100)]
    ledger = Ledger(job_dir, search=many, trials=[*ended, trial(100, state="running")])
    rows = ledger.live({})["trials"]
    assert len(rows) == MAX_ROWS
    assert [row["number"] for row in rows] == list(range(61, 101))


def proposed(algorithm: str, *, seed: int = 0, space: Any = None, trials: int = 6) -> list[dict[str, Any]]:
    """Return what a search tries one after the other, each trial better at higher learning rates."""
    space = space or {"optim.lr": "loguniform:1e-5,1e-3", "train.batch_size": "choice:16,32"}
    values = {"search.space": space, "search.algorithm": algorithm, "search.trials": trials}
    config = load_config("tune", ConfigLayer({**values, "search.search_seed": seed}, {}, is_given=False))
    proposals = proposals_for(config, search_space(config, is_large=False, is_pair=True), metric="accuracy")  # type: ignore[arg-type]
    ended: list[Trial] = []
    for number in range(1, proposals.num_trials + 1):
        tried = proposals.values(number, ended)
        ended.append(
            Trial(number=number, values=tried, config={}, state="finished", history=(evaluation(0.5),))
        )
    return [t.values for t in ended]


@pytest.mark.parametrize("algorithm", ["random", "bayesian"])
def test_the_same_seed_tries_the_same_configurations_and_another_seed_others(algorithm: str) -> None:
    if algorithm == "bayesian":
        pytest.importorskip("optuna", reason="the extra tune-bayesian is not installed")
    assert proposed(algorithm, seed=1) == proposed(algorithm, seed=1)
    assert proposed(algorithm, seed=1) != proposed(algorithm, seed=2)
    for values in proposed(algorithm):
        assert 1e-5 <= values["optim.lr"] <= 1e-3
        assert values["train.batch_size"] in ("16", "32")


def test_a_longer_random_search_begins_with_the_shorter_one() -> None:
    assert proposed("random", trials=12)[:6] == proposed("random", trials=6)


def test_random_tries_nothing_twice_while_there_is_something_else() -> None:
    space = {"train.batch_size": "choice:16,32,64", "train.seed": "randint:0,1"}
    tried = proposed("random", space=space, trials=6)
    assert len({tuple(values.items()) for values in tried}) == 6
    assert len(proposed("random", space=space, trials=8)) == 8


def test_a_grid_tries_every_point_once() -> None:
    space = {"optim.lr": "loguniform:1e-5,1e-3,3", "train.batch_size": "choice:16,32"}
    assert [tuple(values.values()) for values in proposed("grid", space=space)] == [
        (lr, size) for lr in (1e-5, 1e-4, 1e-3) for size in ("16", "32")
    ]


def test_bayesian_learns_from_the_trials_before() -> None:
    pytest.importorskip("optuna", reason="the extra tune-bayesian is not installed")
    config = load_config("tune", ConfigLayer({"search.algorithm": "bayesian"}, {}, is_given=False))
    proposals = proposals_for(config, search_space(config, is_large=False, is_pair=True), metric="accuracy")  # type: ignore[arg-type]
    ended = [
        Trial(number=n, values=v, config={}, state="finished", history=(evaluation(0.9 if is_good else 0.3),))
        for n in range(1, 25)
        for v in [proposals.values(n, [])]
        for is_good in [v["text.truncation"] == "ratio"]
    ]
    tried = [proposals.values(n, ended)["text.truncation"] for n in range(25, 45)]
    assert tried.count("ratio") > 8  # one in five by chance


def test_bayesian_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    config = load_config("tune", ConfigLayer({"search.algorithm": "bayesian"}, {}, is_given=False))
    with pytest.raises(ConfigError) as e:
        proposals_for(config, {}, metric="accuracy")  # type: ignore[arg-type]
    assert "needs Optuna, which is not installed here" in e.value.message
    assert "tune-bayesian" in e.value.hint
