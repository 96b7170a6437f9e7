"""Pictures of a search are drawn for whatever trials there are."""

from pathlib import Path
from typing import Any

import pytest

from bertjobs.runs.tune.plots import accuracy_by_length, save_plots
from bertjobs.runs.tune.trial_records import Search, Trial, TrialEvaluation
from bertjobs.storage import JobDir

SEARCH = Search(
    metric="accuracy",
    space={
        "optim.lr": "loguniform:1e-5,1e-3",
        "text.truncation": "choice:ratio,longest_first",
        "train.seed": "randint:0,3",
    },
    algorithm="random",
    stopper="asha",
    num_trials=4,
)


def trial(
    number: int, strategy: str, accuracy: float | None, *, right: int = 0, state: Any = "finished"
) -> Trial:
    history = () if accuracy is None else tuple(
        TrialEvaluation(
            num_examples=100 * i, step=i, epoch=i,
            scores={"accuracy": accuracy * i / 2, "mcc": 0, "f1": 0, "loss": 1},
        )
        for i in (1, 2)
    )  # fmt: skip
    buckets = (
        {"above": 0.0, "up_to": 1.0, "num_examples": 8, "num_correct": 8},
        {"above": 1.0, "up_to": 2.0, "num_examples": 10, "num_correct": right},
        {"above": 2.0, "up_to": None, "num_examples": 0, "num_correct": 0},
    )
    values = {"optim.lr": 1e-5 * 10**number, "text.truncation": strategy, "train.seed": number}
    return Trial(number=number, values=values, config={}, state=state, history=history, by_length=buckets)


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial(1, "ratio", None, state="failed")],
        [trial(1, "ratio", 0.5)],
        [trial(1, "ratio", 0.5), trial(2, "longest_first", 0.6), trial(0, "ratio", 0.4, state="stopped")],
    ],
    ids=["none", "one that failed", "one", "several"],
)
def test_every_picture_is_a_png(trials: list[Trial], tmp_path: Path) -> None:
    job_dir = JobDir(str(tmp_path), "j-1")
    names = save_plots(job_dir, SEARCH, trials)
    assert len(names) >= 3
    assert all(job_dir.read_bytes(name)[:4] == b"\x89PNG" for name in names)
    assert ("plots/truncation.png" in names) == any(t.state == "finished" for t in trials)


def test_accuracy_by_length_is_over_the_finished_trials_of_a_strategy() -> None:
    trials = [
        trial(0, "ratio", 0.5, right=4),
        trial(1, "longest_first", 0.5, right=9),
        trial(2, "ratio", 0.5, right=6),
        trial(3, "ratio", 0.5, right=10, state="stopped"),
    ]
    assert accuracy_by_length(trials) == {
        "longest_first": [("up to 100%", 8, 1.0), ("up to 200%", 10, 0.9)],
        "ratio": [("up to 100%", 8, 1.0), ("up to 200%", 10, 0.5)],
    }
