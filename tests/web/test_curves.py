"""Curves, trials, and jobs side by side."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertjobs.jobs.curves import thin
from bertjobs.jobs.job import State
from bertjobs.runs.tune.trial_records import Search, Trial, TrialEvaluation, write_trial
from bertjobs.storage import JobDir

pytestmark = pytest.mark.redis

Submit = Callable[..., str]


def test_curves_are_what_was_saved_and_what_came_since(
    browser: Any, submit: Submit, drive: Callable[[str], Any], tmp_path: Path
) -> None:
    job = submit()
    driver = drive(job)
    saved = [{"kind": "step", "step": n, "loss": 1.0} for n in (1, 2)]
    saved.append({"kind": "epoch", "step": 2, "accuracy": 0.5, "loss": 0.9})
    folder = tmp_path / "jobs" / job
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in saved))
    for step in (2, 3, 4, 3):
        driver.step(step, loss=step / 10)
    driver.lease.log_metrics(
        {"step": 4, "epoch": 1, "valid_loss": 0.7, "valid_accuracy": 0.6, "is_best": True}
    )
    found = browser.get(f"/api/v1/jobs/{job}/metrics").json
    assert found["metric"] == "accuracy"
    assert [(line["kind"], line["step"], line["loss"]) for line in found["lines"]] == [
        ("step", 1, 1.0),
        ("step", 2, 1.0),
        ("epoch", 2, 0.9),
        ("step", 3, 0.3),
        ("step", 4, 0.4),
        ("epoch", 4, 0.7),
    ]
    assert found["lines"][-1]["accuracy"] == 0.6
    newer = browser.get(f"/api/v1/jobs/{job}/metrics?since=3").json
    assert [line["step"] for line in newer["lines"]] == [4, 4]
    assert browser.get(f"/api/v1/jobs/{job}/metrics?max_points=1").status == 400


def test_thinning_keeps_both_ends_and_all_evaluations() -> None:
    lines = [{"kind": "step", "step": n} for n in range(1, 101)]
    lines.insert(50, {"kind": "epoch", "step": 50})
    found = thin(lines, max_points=5)
    assert [line["step"] for line in found if line["kind"] == "step"] == [1, 26, 51, 75, 100]
    assert {"kind": "epoch", "step": 50} in found
    assert thin(lines, max_points=100) == lines


def test_the_trials_of_a_search_are_those_that_the_command_prints(
    browser: Any, submit: Submit, tmp_path: Path
) -> None:
    job = submit("tune")
    answer = browser.get(f"/api/v1/jobs/{job}/trials")
    assert (answer.status, answer.json["error"]["message"]) == (404, f"{job} is QUEUED and has no trials yet")
    folder = JobDir(str(tmp_path / "jobs"), job)
    search = {"metric": "accuracy", "space": {"optim.lr": "loguniform(1e-5, 1e-4)"}, "algorithm": "random"}
    Search(**search, stopper="asha", num_trials=2).write(folder)
    evaluation = TrialEvaluation(num_examples=10, step=1, epoch=0.5, scores={"accuracy": 0.75, "loss": 0.5})
    write_trial(folder, Trial(number=1, values={"optim.lr": 3e-5}, config={}, history=(evaluation,)))
    found = browser.get(f"/api/v1/jobs/{job}/trials").json
    assert (found["best"], found["num_trials"], found["num_ended"]) == (1, 2, 0)
    assert found["trials"][0]["value"] == 0.75
    other = submit()
    assert browser.get(f"/api/v1/jobs/{other}/trials").status == 404


def test_jobs_are_compared_by_parameters_results_and_curves(
    browser: Any, submit: Submit, drive: Callable[[str], Any]
) -> None:
    first = submit(config={"task": {"name": "snli"}, "optim": {"lr": 1e-5}})
    second = submit("evaluate", {"task": {"name": "snli"}, "optim": {"lr": 2e-5, "eps": 1e-8}})
    driver = drive(first)
    driver.step(1)
    driver.end(State.SUCCEEDED, metrics={"accuracy": 0.8, "per_class": [{"label": "x"}]})
    found = browser.get(f"/api/v1/compare?job={first}&job={second}").json
    assert [job["id"] for job in found["jobs"]] == [first, second]
    assert found["parameters"] == [
        {"path": "task.name", "values": ["snli", "snli"], "differs": False},
        {"path": "optim.lr", "values": [1e-5, 2e-5], "differs": True},
        {"path": "optim.eps", "values": [None, 1e-8], "differs": True},
    ]
    assert found["results"] == [{"name": "accuracy", "values": [0.8, None]}]
    assert [len(curve["lines"]) for curve in found["curves"]] == [1, 0]
    assert browser.get("/api/v1/compare").status == 400
    assert browser.get(f"/api/v1/compare?job={first}&job=j-000000000").status == 404
