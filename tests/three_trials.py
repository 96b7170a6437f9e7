"""A search of three trials: one stopped early, one finished, one failed."""

from typing import Any

from bertjobs.config import load_config
from bertjobs.jobs.job import Job
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.runs.tune.trial_records import Search, Trial, TrialEvaluation, write_trial

SEARCH = Search(
    metric="accuracy",
    space={"optim.lr": "loguniform:1e-5,1e-3", "text.truncation": "choice:ratio,longest_first"},
    algorithm="random",
    stopper="asha",
    num_trials=3,
)


def trial(number: int, value: float | None, *, state: Any = "finished", **more: Any) -> Trial:
    values = {"optim.lr": round(number * 1e-4, 6), "text.truncation": "ratio"}
    config = load_config("finetune").model_dump(mode="json")
    config["optim"]["lr"], config["text"]["truncation"] = values["optim.lr"], "ratio"
    config["resources"]["gpus"] = 4
    history = () if value is None else (
        TrialEvaluation(
            num_examples=900, step=30, epoch=1.5,
            scores={"accuracy": value, "mcc": 0.1, "f1": 0.2, "loss": 1.0},
        ),
    )  # fmt: skip
    return Trial(number=number, values=values, config=config, state=state, history=history, **more)


TRIALS = (
    trial(1, 0.5, state="stopped", reason="asha"),
    trial(2, 0.75),
    trial(3, None, state="failed", reason="TrainingError", message="At step 3 of 9 the loss is nan."),
)


def submit_search(store: JobStore, *, storage: str) -> Job:
    """Queue a search whose driver has left these trials so far."""
    job, _ = store.submit(
        "tune",
        load_config("tune").model_dump(mode="json"),
        storage=storage,
        resources={"gpus": 0, "workers": None, "cpus_per_worker": None},
        user="ada",
    )
    SEARCH.write(job.job_dir)
    for one in TRIALS:
        write_trial(job.job_dir, one)
    return job
