"""A job across hosts of a shared cluster, and what becomes of it when hosts, processes and cables fail."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

# Each of Ray's workers has two CPUs and so holds one training worker; the head's one is for reading data.
ACROSS = "--preset demo --epochs 2 --checkpoint-steps 5 --workers 2 --cpus-per-worker 2"


@pytest.fixture(scope="session")
def undisturbed(shared, sample) -> dict[str, Any]:
    """Return what is said of a job that nothing happens to."""
    return submit_and(shared, sample / "snli_1.0", "undisturbed", lambda job: None)


def submit_and(shared, data: Path, name: str, disturb) -> dict[str, Any]:
    """Submit a job, do something to it, and return its status when it has SUCCEEDED."""
    job = shared.run("submit", "finetune", *ACROSS.split(), "--data", str(data), "--name", name).strip()
    disturb(job)
    ended = shared.wait_for(job, lambda status: status["ended_at"] is not None)
    assert ended["state"] == "SUCCEEDED", f"{ended['message']}\n{shared.run('logs', job)}"
    return ended


def test_a_job_trains_across_two_hosts(shared, undisturbed):
    assert undisturbed["attempts"] == 1
    log = shared.run("logs", undisturbed["id"])
    for name in ("ray-worker-1", "ray-worker-2"):
        assert f"(ip={shared.hosts[name].address}, pid=" in log


def test_what_is_lost_one_after_the_other_costs_no_step(shared, sample, undisturbed):
    """A host is cut off, a raylet, the leading dispatcher and Redis are killed while one job trains."""

    def disturb(job: str) -> None:
        shared.wait_for(job, is_running_after(step=3))
        shared.network.cut("ray-worker-2")
        waiting = shared.wait_for(job, lambda status: status["state"] == "QUEUED")
        assert waiting["reason"] in ("ExceedsCluster", "Submitted")
        shared.network.join("ray-worker-2")
        shared.wait_until(lambda: not shared.hosts["ray-worker-2"].processes("/raylet"))
        shared.start_node("ray-worker-2")

        shared.wait_for(job, lambda status: status["attempts"] == 2)
        shared.wait_for(job, is_running_after(step=15))
        shared.hosts["ray-worker-1"].kill("/raylet")
        shared.wait_for(job, lambda status: status["state"] == "QUEUED")
        shared.start_node("ray-worker-1")

        shared.wait_for(job, lambda status: status["attempts"] == 3)
        shared.wait_for(job, is_running_after(step=30))
        leader = shared.leader()
        shared.kill_at_desk(leader)
        shared.hosts["redis"].kill("")
        shared.start_redis()
        shared.wait_until(lambda: shared.leader() not in (None, leader))

    ended = submit_and(shared, sample / "snli_1.0", "disturbed", disturb)
    assert ended["attempts"] == 3
    assert steps_of(ended) == steps_of(undisturbed)
    assert weights_of(ended) == weights_of(undisturbed)


def is_running_after(*, step: int) -> Any:
    return lambda status: status["state"] == "RUNNING" and status["progress"].get("step", 0) > step


def steps_of(job: dict[str, Any]) -> list[tuple[int, float]]:
    """Return the published series: every step once, with its loss."""
    lines = (Path(job["artifacts"]["dir"]) / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "step"]
    assert [row["step"] for row in rows] == list(range(1, job["metrics"]["num_steps"] + 1))
    return [(row["step"], row["loss"]) for row in rows]


def weights_of(job: dict[str, Any]) -> str:
    return hashlib.sha256((Path(job["artifacts"]["model"]) / "model.safetensors").read_bytes()).hexdigest()
