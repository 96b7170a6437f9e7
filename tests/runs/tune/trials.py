"""Trials as the tests of the searches make them."""

from typing import Any

from bertjobs.runs.tune.trial_records import Search, Trial, TrialEvaluation

SEARCH = Search(
    metric="accuracy",
    space={"optim.lr": "loguniform:1e-5,1e-3"},
    algorithm="random",
    stopper="asha",
    num_trials=4,
)


def evaluation(accuracy: float, *, step: int = 10, loss: float = 1.0) -> TrialEvaluation:
    return TrialEvaluation(
        num_examples=step * 16,
        step=step,
        epoch=step / 10,
        scores={"accuracy": accuracy, "mcc": 0.1, "f1": 0.2, "loss": loss},
    )


def trial(number: int, *accuracies: float, state: Any = "finished", **more: Any) -> Trial:
    history = tuple(evaluation(a, step=10 * (i + 1)) for i, a in enumerate(accuracies))
    return Trial(number=number, values={"optim.lr": 1e-4}, config={}, state=state, history=history, **more)


def history(*accuracies: float) -> list[dict[str, Any]]:
    return trial(1, *accuracies).to_json()["history"]
