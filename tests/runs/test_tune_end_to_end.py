"""Whole searches through the queue of a real stack: killed on the way, cancelled, and gone on with."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

SEARCH = ("tune", "--preset", "demo", "--epochs", "2", "--set", "search.stopper=none", "--set")
TRIAL_ACTOR = "ray::ImplicitFunc"


def search(cluster, sample, *words: str) -> str:
    """Queue a search on the sample; return its id."""
    data = str(sample / "snli_1.0")
    return cluster.run("tune", "--preset", "demo", "--data", data, *words).strip()


def has_ended(status: dict[str, Any]) -> bool:
    return status["ended_at"] is not None


def is_running(number: int, *, after_epoch: float = 0.0) -> Any:
    """Return whether that trial trains, as far as the live table knows."""

    def holds(status: dict[str, Any]) -> bool:
        assert not has_ended(status), f"it ended too soon: {status['message']}"
        rows = status["progress"].get("trials", [])
        return any(
            row["number"] == number and row["state"] == "running" and row["epoch"] > after_epoch
            for row in rows
        )

    return holds


def assert_nothing_is_left(cluster, job: str) -> None:
    cluster.wait_for(job, lambda _: not cluster.processes("ray::ImplicitFunc") and not cluster.processes(job))
    cluster.wait_for(job, lambda _: cluster.left_in_ray("placement_groups") == [])
    cluster.wait_for(job, lambda _: cluster.left_in_ray("actors") == [])


def test_a_search_whose_trial_driver_and_dispatcher_are_killed_accounts_for_all_trials(cluster, sample):
    job = search(cluster, sample, "--trials", "5", "--epochs", "3", "--stopper", "none", "--search-seed", "3")
    cluster.wait_for(job, is_running(1, after_epoch=0.1))
    cluster.kill(TRIAL_ACTOR)
    cluster.wait_for(job, is_running(2))
    cluster.kill_members("dispatcher")
    cluster.wait_for(job, is_running(3, after_epoch=1.1))
    before = cluster.json("trials", job)["trials"]
    cluster.kill(f"bertjobs.runs.main {job}")
    ended = cluster.wait_for(job, has_ended)
    assert (ended["state"], ended["attempts"]) == ("SUCCEEDED", 2)
    found = cluster.json("trials", job)
    trials = found["trials"]
    assert [(t["number"], t["state"], t["reason"]) for t in trials] == [
        (1, "failed", "WorkerLost"), *((n, "finished", "") for n in (2, 3, 4, 5))
    ]  # fmt: skip
    assert trials[:2] == before[:2]  # what had ended was kept as it was
    assert [t["values"] for t in trials[:3]] == [t["values"] for t in before]
    assert [e["epoch"] for e in trials[2]["history"]] == [1.0, 2.0, 3.0]
    assert "steps 0 to" not in log_after_the_driver_was_killed(cluster, job).partition("trial 3 finished")[0]
    assert (ended["metrics"]["num_trials"], ended["metrics"]["num_failed"]) == (5, 1)
    best = max(t["value"] for t in trials if t["value"] is not None and t["state"] == "finished")
    assert ended["metrics"]["best_value"] == found["trials"][found["best"] - 1]["value"] == best
    assert ended["metrics"]["accuracy"] == pytest.approx(best, abs=1e-9)  # of the model that is left
    assert_nothing_is_left(cluster, job)
    rows = list(csv.DictReader(io.StringIO(cluster.run("trials", job, "--csv"))))
    assert [row["state"] for row in rows] == [t["state"] for t in trials]
    assert [Path(p).read_bytes()[:4] for p in ended["artifacts"]["plots"]] == [b"\x89PNG"] * 3


def log_after_the_driver_was_killed(cluster, job: str) -> str:
    return cluster.run("logs", job)


def test_a_trial_is_run_again_in_full_by_its_number(cluster, sample): ...


def test_a_cancelled_search_leaves_no_trial_and_frees_its_place(cluster, sample):
    job = search(cluster, sample, "--trials", "4", "--epochs", "50")
    cluster.wait_for(job, is_running(1))
    cluster.run("cancel", job)
    ended = cluster.wait_for(job, has_ended)
    assert (ended["state"], ended["attempts"]) == ("CANCELLED", 1)
    assert_nothing_is_left(cluster, job)
    assert cluster.json("trials", job)["num_ended"] == 0
