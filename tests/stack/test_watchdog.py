"""When the watchdog restarts what has ended."""

import itertools

from bertjobs.stack import process, watchdog


def test_the_watchdog_restarts_at_once_then_with_growing_delays():
    deaths = {member: [] for member in watchdog.WATCHED}
    times = [now / 2 for now in range(600) if "ray" in watchdog.restarts_due({}, deaths, now=now / 2)]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert (times[0], gaps[:5]) == (0.0, [2.0, 4.0, 8.0, 16.0, 32.0])
    assert max(gaps) <= 60.0


def test_the_watchdog_resets_the_delay_after_a_quiet_time_and_leaves_running_members_alone(sleeper):
    deaths = {member: [] for member in watchdog.WATCHED}
    alive = process.identify(sleeper.pid)
    known = {"redis": alive, "dispatcher": alive}
    assert watchdog.restarts_due(known, deaths, now=0.0) == ["ray"]
    assert watchdog.restarts_due(known, deaths, now=1.0) == []
    assert watchdog.restarts_due({**known, "ray": alive}, deaths, now=2.0) == []
    assert watchdog.restarts_due(known, deaths, now=1000.0) == ["ray"]
    assert deaths["ray"] == [1000.0]
