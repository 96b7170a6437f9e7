"""The groups of tests that share a stack name files that exist."""

from pathlib import Path

import conftest


def test_every_file_of_a_group_exists() -> None:
    tests = Path(__file__).parent
    assert [file for file in conftest.ONE_STACK if not (tests / file).is_file()] == []


def test_a_test_belongs_to_its_group_or_to_its_file() -> None:
    assert conftest.group_of("tests/runs/test_queue_end_to_end.py::test_a[1]") == "queue"
    assert conftest.group_of("tests/config/test_load.py::test_b") == "config/test_load.py"
