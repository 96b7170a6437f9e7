"""A job across hosts of a shared cluster, and what becomes of it when hosts, processes and cables fail."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.hosts, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

# Each of Ray's workers has two CPUs and so holds one training worker; the head's one is for reading data.
ACROSS = "--preset demo --precision fp32 --epochs 2 --checkpoint-steps 5 --workers 2 --cpus-per-worker 2"


@pytest.fixture(scope="session")
def data(shared) -> str:
    """Return the sample in a folder that no other host than the desk has."""
    folder = shared.hosts["desk"].local / "sample"
    shared.run("data", "sample", str(folder))
    return str(folder / "snli_1.0")


@pytest.fixture(scope="session")
def undisturbed(shared, data) -> dict[str, Any]:
    """Return what is said of a job that nothing happens to."""
    return submit_and(shared, data, "undisturbed", lambda job: None)


def submit_and(shared, data: str, name: str, disturb) -> dict[str, Any]:
    """Submit a job, do something to it, and return its status when it has SUCCEEDED."""
    job = shared.run("submit", "finetune", *ACROSS.split(), "--data", data, "--name", name).strip()
    disturb(job)
    ended = shared.wait_for(job, lambda status: status["ended_at"] is not None)
    assert ended["state"] == "SUCCEEDED", f"{ended['message']}\n{shared.run('logs', job)}"
    return ended


def test_the_doctor_finds_the_cluster_well_from_every_node(shared):
    found = {check["name"]: check for check in shared.json("doctor")["checks"]}
    assert {name: check["verdict"] for name, check in found.items()} == dict.fromkeys(found, "ok")
    assert found["nodes"]["found"] == f"3 nodes: {shared.storage} can be written, and Redis knows the driver"
    assert found["ray nodes"]["found"] == "3 nodes, 5 CPUs, 0 GPUs"


def test_a_job_trains_across_two_hosts(shared, undisturbed):
    assert undisturbed["attempts"] == 1
    log = shared.run("logs", undisturbed["id"])
    for name in ("ray-worker-1", "ray-worker-2"):
        assert f"(ip={shared.hosts[name].address}, pid=" in log


def test_what_is_lost_one_after_the_other_costs_no_step(shared, data, undisturbed):
    """A host is cut off, a raylet, the leading dispatcher and Redis are killed while one job trains."""

    def disturb(job: str) -> None:
        shared.wait_for(job, is_running_after(step=3))
        shared.network.cut("ray-worker-2")
        shared.wait_for(job, lambda status: status["reason"] == "ExceedsCluster")
        shared.network.join("ray-worker-2")  # the node hears that it was given up, and ends
        shared.start_node_again("ray-worker-2")

        shared.wait_for(job, lambda status: status["attempts"] == 2)
        shared.wait_for(job, is_running_after(step=15))
        shared.hosts["ray-worker-1"].kill("/raylet")
        shared.wait_for(job, lambda status: status["reason"] == "ExceedsCluster")
        shared.start_node_again("ray-worker-1")

        shared.wait_for(job, lambda status: status["attempts"] == 3)
        shared.wait_for(job, is_running_after(step=30))
        leader = shared.leader()
        shared.kill_at_desk(leader)
        shared.hosts["redis"].kill("")
        shared.start_redis()
        shared.wait_until(lambda: shared.leader() not in (None, leader))

    ended = submit_and(shared, data, "disturbed", disturb)
    assert ended["attempts"] == 3
    assert steps_of(ended) == steps_of(undisturbed)
    assert weights_of(ended) == weights_of(undisturbed)


def test_the_code_travels_where_the_nodes_shall_not_use_their_own(shared):
    answers = shared.ask_nodes(BERTJOBS_SEND_CODE="1")
    assert len(answers) == 3
    assert all("/py_modules_files/_ray_pkg_" in answer["code"] for answer in answers)


def test_who_has_not_the_password_or_the_token_is_told_so(shared):
    password = shared.redis.password_file("driver")
    refused = shared.type("list", BERTJOBS_REDIS_PASSWORD_FILE=str(password))
    assert refused.returncode == 2
    assert "user cli has another password, or does not exist" in refused.stderr
    plain = {"BERTJOBS_REDIS_URL": f"redis://redis:{shared.redis.port}/0", "BERTJOBS_REDIS_CA_FILE": ""}
    refused = shared.type("list", **plain)
    assert refused.returncode == 2
    assert "uses TLS, and the address does not" in refused.stderr
    refused = shared.type("doctor", "--quick", RAY_AUTH_TOKEN_PATH="")
    assert refused.returncode == 1
    assert "refuses us (401)" in refused.stdout
    assert "RAY_AUTH_TOKEN_PATH" in refused.stdout


def test_no_secret_is_anywhere_but_in_its_file(shared, undisturbed):
    secrets = [file.read_text().strip() for file in shared.redis.secrets.iterdir() if file.is_file()]
    assert len(secrets) == 4
    assert all(len(secret) >= 32 for secret in secrets)
    places = dict(shared.everything_written())
    for host in shared.hosts.values():
        places |= {f"{host.name}: process {pid}": line.encode() for pid, line in host.processes().items()}
    job = undisturbed["id"]
    for words in (("list", "--all"), ("status", job), ("cluster", "status"), ("doctor", "--quick")):
        places[" ".join(words)] = shared.type(*words, "--json").stdout.encode()
    assert len(places) > 50
    assert any(job.encode() in content for name, content in places.items() if "appendonly" in name)
    found = [name for name, content in places.items() if any(s.encode() in content for s in secrets)]
    assert found == []


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
