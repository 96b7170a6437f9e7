"""Both of Ray's autoscalers add the nodes that the dispatcher asks for, and remove them when it takes that
back."""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nodes_for_eight_gpus_come_when_they_are_asked_for_and_go_when_nothing_waits(engine, images, version):
    script = Path(__file__).with_name("fake_nodes.py")
    options = ["--rm", "--shm-size", "1g", "--env", "RAY_AUTH_MODE=disabled", "--entrypoint", "python"]
    options += ["--volume", f"{script}:/fake_nodes.py:ro", "bertjobs-ray:0.1.0"]
    said = engine.docker("run", *options, "-W", "ignore", "/fake_nodes.py", version)
    assert [line.split()[0] for line in said.splitlines() if line.startswith(("came", "gone"))] == [
        "came",
        "gone",
    ]
