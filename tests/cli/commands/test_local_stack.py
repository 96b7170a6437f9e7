"""`bertjobs cluster` up, down, status and dashboard, without a running stack."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTJOBS_REDIS_URL")
    monkeypatch.delenv("BERTJOBS_RAY_ADDRESS")


@pytest.mark.usefixtures("embedded")
def test_the_status_of_a_stack_that_is_off_starts_nothing(run: Run, home: Path) -> None:
    result = run("cluster", "status")
    assert result.exit_code == 1
    assert "state      off" in result.stdout
    assert [line.split()[:2] for line in result.stdout.splitlines()[-4:]] == [
        ["redis", "off"],
        ["ray", "off"],
        ["dispatcher", "off"],
        ["watchdog", "off"],
    ]
    assert json.loads(run("cluster", "status", "--json").stdout)["home"] == str(home)
    assert not home.exists()


@pytest.mark.usefixtures("embedded")
def test_without_a_stack_there_is_nothing_to_stop_and_no_dashboard(run: Run) -> None:
    down = run("cluster", "down")
    assert (down.exit_code, down.stdout, down.stderr) == (0, "", "Nothing was running.\n")
    dashboard = run("cluster", "dashboard")
    assert (dashboard.exit_code, dashboard.stdout) == (2, "")
    assert "`bertjobs cluster up` starts it." in dashboard.stderr


def test_a_shared_stack_is_not_stopped_from_here(run: Run) -> None:
    result = run("cluster", "down")
    assert result.exit_code == 2
    assert "shared Redis and Ray, which are not stopped from here" in result.stderr
