"""The doctor at a real stack: all well, and the node asked."""

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_doctor_finds_an_embedded_stack_well_from_its_node(cluster):
    cluster.run("cluster", "up")
    found = {check["name"]: check for check in cluster.json("doctor")["checks"]}
    assert {name: check["verdict"] for name, check in found.items()} == dict.fromkeys(found, "ok")
    named = {"redis persistence", "redis eviction", "dispatcher", "ray version", "storage", "nodes"}
    assert named <= found.keys()
    jobs = f"{cluster.home}/jobs"
    assert found["nodes"]["found"] == f"1 node: {jobs} can be written, and Redis knows the driver"
