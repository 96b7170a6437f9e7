"""The engine, the images and the running cluster of the container tests."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_cluster import ContainerCluster, Person
from engine import Engine, why_no_engine
from images import build, get_base_images, size_bytes, torch_index

CACHE = os.environ.get("CONTAINER_TEST_CACHE")
"""A folder for the engine's images between runs; without it each run builds everything anew."""


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Return a folder for all that the tests write; others may enter it."""
    path = Path(tempfile.mkdtemp(prefix="bj-containers-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def engine(folder) -> Iterator[Engine]:
    """Return an engine; skip where there is none."""
    if reason := why_no_engine():
        pytest.skip(reason)
    kept = Path(CACHE or folder / "engine")
    kept.mkdir(parents=True, exist_ok=True)
    engine = Engine(kept)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def images(engine, folder) -> Iterator[dict[str, int]]:
    """Build both images; return the size of each in bytes."""
    made = get_base_images(engine, folder)
    tags = {target: f"bertjobs-{target}:0.1.0" for target in ("control", "ray")}
    with torch_index(Path(CACHE or folder)) as address:
        for target, tag in tags.items():
            build(engine, target, tag=tag, folder=folder, torch_index=address)
    yield {target: size_bytes(engine, tag) for target, tag in tags.items()}
    if "DOCKER_HOST" in os.environ:  # else they go with the folder of the engine
        engine.try_docker("image", "rm", "--force", *tags.values(), *made)


@pytest.fixture(scope="session")
def cluster(engine, images, folder) -> Iterator[ContainerCluster]:
    """Return the running cluster."""
    cluster = ContainerCluster(engine, folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def ada(cluster) -> Person:
    """Return a user of the machine itself, who has read docker/README.md."""
    return cluster.host_user(61001)


@pytest.fixture(scope="session")
def ben(cluster, folder) -> Person:
    """Return a user at another machine."""
    return cluster.remote_user(61002, folder)
