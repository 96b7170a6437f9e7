"""The second layer, in short: real processes, each killed in some way, and everything settles."""

import tempfile
from pathlib import Path

import pytest

from faults.kills import Cluster
from faults.stand_in_driver import NUM_STEPS

pytestmark = pytest.mark.redis


@pytest.fixture
def cluster(request):
    with tempfile.TemporaryDirectory(prefix="bj-") as folder:  # a unix socket needs a short path
        cluster = Cluster(Path(folder), seed=1, step_s=0.1)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.close()


def test_whatever_is_killed_nothing_is_lost_published_twice_or_left_behind(cluster):
    violations = cluster.run_each(
        [
            "driver: SIGKILL",
            "heartbeat: SIGKILL",
            "Redis: SIGKILL",
            "storage: half of the writes fail for 3 s",
            "Redis: SIGKILL, its file cut by a second",
            "Ray: calls living jobs FAILED",
            "dispatcher: SIGKILL",
        ]
    )
    assert not violations
    assert cluster.kills.total() == 7 and len(cluster.accepted) >= 6


def test_it_sees_a_job_that_is_gone_an_end_that_changes_and_a_model_with_a_gap(cluster):
    cluster.submit()
    assert cluster.finish() == []
    (job_id,) = cluster.accepted
    client = cluster.connection.client
    model = Path(cluster.store.get(job_id).artifacts["model"]) / "model.json"
    text = model.read_text()
    model.write_text(text.replace(f" {NUM_STEPS}\n", f" {NUM_STEPS + 1}\n"))
    client.sadd("bj:live", f"{job_id} 9")
    cluster._check()
    assert cluster.violations == ["bj:live is left", f"{job_id}: trained steps are [1, 2, 3, 4, 5, 7]"]
    client.hset(f"bj:job:{job_id}", "state", "FAILED")
    for _ in range(200):  # a user seldom looks at an ended job again
        cluster._look()
    assert f"{job_id}: SUCCEEDED became FAILED" in cluster.violations
    client.delete(f"bj:job:{job_id}")
    for _ in range(200):
        cluster._look()
    assert cluster.violations[-1] == f"{job_id} is gone"
