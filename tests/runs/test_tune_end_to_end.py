"""Whole searches through the queue of a real stack: killed, run again, cancelled, of two workers a trial."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

TRIAL_ACTOR = "ray::ImplicitFunc"


def search(cluster, sample, *words: str) -> str:
    """Queue a search on the sample; return its id."""
    data = str(sample / "snli_1.0")
    return cluster.run("tune", "--preset", "demo", "--precision", "fp32", "--data", data, *words).strip()


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


def test_a_search_whose_trial_driver_and_dispatcher_are_killed_accounts_for_all_trials(cluster, sample):
    job = search(cluster, sample, "--trials", "4", "--epochs", "3", "--stopper", "none")
    cluster.wait_for(job, is_running(1, after_epoch=0.1))
    cluster.kill(TRIAL_ACTOR)
    cluster.wait_for(job, is_running(2))
    cluster.kill_members("dispatcher")
    cluster.wait_for(job, is_running(3, after_epoch=1.1))
    before = cluster.json("trials", job)["trials"]
    cluster.kill(f"bertjobs.runs {job}")
    ended = cluster.wait_for(job, has_ended)
    assert (ended["state"], ended["attempts"]) == ("SUCCEEDED", 2)
    found = cluster.json("trials", job)
    trials = found["trials"]
    assert [(t["number"], t["state"], t["reason"]) for t in trials] == [
        (1, "failed", "WorkerLost"), (2, "finished", ""), (3, "finished", ""), (4, "finished", ""),
    ]  # fmt: skip
    assert trials[:2] == before[:2]  # what had ended was kept as it was
    assert [e["epoch"] for e in trials[2]["history"]] == [1.0, 2.0, 3.0]
    assert trials[2]["history"][0] == before[2]["history"][0]  # it went on from its checkpoint
    assert (ended["metrics"]["num_trials"], ended["metrics"]["num_failed"]) == (4, 1)
    best = max(t["value"] for t in trials if t["state"] == "finished")
    assert trials[found["best"] - 1]["value"] == ended["metrics"]["best_value"] == best
    assert ended["metrics"]["accuracy"] == best  # of the model that is left
    cluster.assert_nothing_is_left()
    assert not cluster.processes(TRIAL_ACTOR)
    rows = list(csv.DictReader(io.StringIO(cluster.run("trials", job, "--csv"))))
    assert [row["state"] for row in rows] == [t["state"] for t in trials]
    assert [Path(p).read_bytes()[:4] for p in ended["artifacts"]["plots"]] == [b"\x89PNG"] * 3
    again = cluster.json(
        "submit", "finetune", "--from-trial", job, "--data", str(sample / "snli_1.0"), "--wait"
    )  # fmt: skip
    assert again["metrics"]["accuracy"] == best  # the same work: on a CPU to the last bit
    origin = cluster.json("status", again["id"])["config"]["origin"]
    assert origin["from_trial"] == f"{job}:{found['best']}"


def test_trials_of_two_workers_share_a_grant_and_are_stopped_early(cluster, sample):
    job = search(
        cluster, sample, "--epochs", "2", "--batch-size", "16", "--workers", "2", "--workers-per-trial", "2",
        "--space", "optim.lr=choice:1e-3,1e-7", "--space", "optim.freeze_layers=choice:0,9",
        "--algorithm", "grid", "--grace-examples", "600",
    )  # fmt: skip
    ended = cluster.wait_for(job, has_ended)
    assert (ended["state"], ended["attempts"]) == ("SUCCEEDED", 1)
    trials = cluster.json("trials", job)["trials"]
    assert [(t["state"], t["reason"], len(t["history"])) for t in trials] == [
        ("finished", "", 2), ("failed", "ConfigError", 0),
        ("stopped", "asha", 1), ("failed", "ConfigError", 0),
    ]  # fmt: skip
    assert "--freeze-layers 9" in trials[1]["message"]
    cluster.assert_nothing_is_left()
    assert not cluster.processes(TRIAL_ACTOR)


def test_a_cancelled_search_leaves_no_trial_and_frees_its_place(cluster, sample):
    job = search(cluster, sample, "--trials", "4", "--epochs", "50")
    cluster.wait_for(job, is_running(1))
    cluster.run("cancel", job)
    ended = cluster.wait_for(job, has_ended)
    assert (ended["state"], ended["attempts"]) == ("CANCELLED", 1)
    cluster.assert_nothing_is_left()
    assert not cluster.processes(TRIAL_ACTOR)
    assert cluster.json("trials", job)["num_ended"] == 0
