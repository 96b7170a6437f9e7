"""The doctor at a real stack: all well, and the node asked."""

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_doctor_finds_an_embedded_stack_well_from_its_node(cluster):
    cluster.run("cluster", "up")
    found = {check["name"]: check for check in cluster.json("doctor")["checks"]}
    assert {name: check["verdict"] for name, check in found.items()} == dict.fromkeys(found, "ok")
    assert {"redis persistence", "redis eviction", "dispatcher", "ray version", "storage", "nodes"} <= set(found)
    assert found["nodes"]["found"] == f"all 1 write to {cluster.home}/jobs and reach Redis as the driver"
