"""A storage that gives up while a job runs: the job says so, and what it had published is still there."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the mount of a file system that has room for a configuration, and none for a checkpoint."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_in_the_middle_of_a_run_ends_it_with_the_remedy(cluster, sample, tiny_disk):
    said = cluster.run(
        "run", "finetune", "--preset", "demo", "--data", str(sample / "snli_1.0"), "--max-steps", "4",
        "--precision", "fp32", "--set", "train.checkpoint_steps=2", "--output", str(tiny_disk / "run"),
        code=2,
    )  # fmt: skip
    folder = tiny_disk / "run"
    assert f"error: {folder}/checkpoints/step-00000002: No space left on device" in said
    assert "hint: The disk is full: free room there, or set BERTJOBS_STORAGE to another place." in said
    assert "Traceback" not in said
    assert json.loads((folder / "config.json").read_text())["train"]["max_steps"] == 4
    assert not list(folder.glob(".new-*"))  # the half of a checkpoint takes no room
    assert not (folder / "model").exists()
    assert not cluster.processes("RayTrainWorker")
