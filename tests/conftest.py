"""What tests of several rooms share."""

from collections.abc import Iterator

import pytest

from file_server import FileServer, serving


@pytest.fixture
def file_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A file server of this test's own, reached without any proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server
