"""The campaign: seeds in every run of the tests, and that it sees what it is there to see."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from bertjobs.jobs.driver import session as session_module
from bertjobs.jobs.driver.session import JobSession
from bertjobs.jobs.store import connection as connection_module
from faults.campaign import connect, print_cells, run_seed
from faults.plan import APPLICABLE, PlannedFault
from faults.processes import DriverProcess
from faults.report import tables
from faults.world import FakeRay, World
from redis_process import RedisProcess

pytestmark = pytest.mark.redis

NUM_SEEDS = 1000
SLICES = 8


@pytest.fixture
def client(redis_server: RedisProcess) -> Iterator[Any]:
    """Connect, without what the product logs about each fault."""
    logging.disable(logging.CRITICAL)
    client = connect(redis_server.folder / "redis.sock")
    yield client
    client.close()
    client.bytes_client.close()
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("part", range(SLICES))
def test_no_seed_violates_an_invariant(client, part):
    cells: Counter[tuple[str, str]] = Counter()
    failed = {}
    for seed in range(part, NUM_SEEDS, SLICES):
        world = run_seed(client, seed)
        cells.update(fault.cell for fault in world.faults if fault.has_happened)
        if world.violations:
            failed[seed] = world.violations
    print_cells(cells)
    assert not failed, "replay with `python -m tests.faults.replay SEED`"
    assert len(cells) > sum(map(len, APPLICABLE.values())) / 3, "faults happen"


FAILED_ONCE = {
    6331: "more was granted than the cluster has: a claim by a count from before a rollback",
    3011: "the campaign: an `undrain` that a rollback took back",
    3076: "a checkpoint that a rolled back Redis names was gone, others were there",
    39302: "a claim of a job that a rollback had removed failed the pass",
    40417: "the campaign: it did not wait for a job whose user was told that Redis is away",
    25808: "the campaign: a driver that was cut off at its first report came back, and did nothing",
    87503: "the outcome of a log, refused between two terms of one dispatcher, was never written",
    5046: "the campaign: a publication was written down after a pause",
}
"""Seeds beyond the first that violated an invariant, and why."""


@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_a_seed_that_failed_once_holds(client, seed):
    assert not run_seed(client, seed).violations, FAILED_ONCE[seed]


def test_it_sees_a_claim_by_a_count_from_before_a_rollback(client, broken_script):
    broken_script("arg.last_mark and redis.call('GET', 'bj:mark') ~= arg.last_mark", "false")
    assert any("CPUs are granted" in violation for violation in run_seed(client, 6331).violations)


def test_the_tables_count_seeds_faults_and_points(client):
    world = run_seed(client, 7)
    piece = {
        "num_seeds": 1,
        "failed": {"7": ["x"]},
        "cells": {"|".join(fault.cell): 1 for fault in world.faults if fault.has_happened},
        "points": {"|".join(point): number for point, number in world.points.items()},
    }
    text = tables([piece, piece])
    assert text.startswith(f"2 seeds, {2 * len(world.points)} faults at {len(world.points)} points")
    assert "2 seeds violated an invariant: 7, 7." in text
    ((_, fault, _), *_) = world.points
    assert f"| {fault} |" in text and "| redis." in text


def test_a_seed_gives_the_same_run_again(client):
    first, second = run_seed(client, 7), run_seed(client, 7)
    assert (first.trace, first.now, first.points) == (second.trace, second.now, second.points)
    assert first.files.keys() == second.files.keys()


def _violations(client: Any, *, start: int = 0) -> list[str]:
    """Return those of the first seed from `start` on that has any."""
    found = (run_seed(client, seed).violations for seed in range(start, NUM_SEEDS))
    return next(filter(None, found), [])


@pytest.fixture
def broken_script(monkeypatch):
    """Change the source of the scripts, as a mistake would."""
    real = connection_module.source_of

    def change(old: str, new: str) -> None:
        monkeypatch.setattr(connection_module, "source_of", lambda name: real(name).replace(old, new))

    return change


def test_it_sees_a_token_that_is_not_checked(client, broken_script):
    broken_script("return current[1] == tostring(token) and not current[2]", "return current[1] ~= false")
    assert _violations(client)


def test_it_sees_a_result_that_is_not_left_in_storage(client, monkeypatch):
    monkeypatch.setattr(session_module, "write_result", lambda *_, **__: None)
    assert any("results are []" in violation for violation in _violations(client))


def test_it_sees_an_attempt_that_holds_nothing_while_it_lives(client, broken_script):
    broken_script("redis.call('SADD', 'bj:live', arg.id .. ' ' .. n)", "")
    assert _violations(client)


def test_it_sees_a_rollback_that_the_dispatcher_does_not_notice(client, broken_script):
    broken_script("mark ~= arg.last_mark", "false")
    assert any("a pass failed" in violation for violation in _violations(client))


def _run_with_a_driver_that_ray_calls_failed(client: Any) -> list[str]:
    """A worker that is cut off from Redis; Ray, which still reaches it, has lost contact with its driver."""
    fault = {"is_after": False, "lasts_s": 150.0}
    faults = [
        PlannedFault(target="rank", fault="cut from redis", at_call=8, **fault),
        PlannedFault(target="ray", fault="cut from both", at_call=12, **fault),
    ]
    return World(client, seed=0, faults=faults).run()


def test_no_attempt_starts_while_the_workers_of_the_one_before_live(client):
    assert not _run_with_a_driver_that_ray_calls_failed(client)


def test_it_sees_a_record_of_ray_that_is_taken_for_the_end_of_its_workers(client, monkeypatch):
    monkeypatch.setattr(FakeRay, "_describe", lambda ray, submission_id: ray._jobs.get(submission_id))
    violations = _run_with_a_driver_that_ray_calls_failed(client)
    assert any("token 2 works beside [1]" in violation for violation in violations)


def test_it_sees_a_worker_that_writes_while_it_can_renew_nowhere(client, monkeypatch):
    monkeypatch.setattr(JobSession, "confirm_lease", lambda _: None)
    violations = _violations(client, start=200)
    assert any("after Redis last answered" in violation for violation in violations)


def test_it_sees_outputs_that_attempts_share(client, monkeypatch):
    monkeypatch.setattr(DriverProcess, "_outputs_name", lambda _: "outputs-a1")
    assert any("missing" in violation for violation in _violations(client))


def test_it_sees_a_model_that_attempts_share(client, monkeypatch):
    monkeypatch.setattr(DriverProcess, "_model_name", lambda _: "model")
    violations = _violations(client, start=800)
    assert any("bears token" in violation or "is that of token" in violation for violation in violations)
