"""The leadership is renewed beside the pass, as long as passes are made, and is never taken there."""

import pytest

from bertjobs.jobs.dispatcher.leadership import MAX_PASS_AGE_S, LeadershipRenewal
from bertjobs.jobs.store.dispatch_store import DispatchStore

pytestmark = pytest.mark.redis


@pytest.fixture
def renewal(world):
    return LeadershipRenewal(
        world.dispatcher._store,
        last_pass_at=lambda: world.dispatcher.last_pass_at,
        clock=lambda: world.now_s,
    )


def test_the_leadership_is_renewed_while_a_long_pass_runs(world, connection, renewal):
    world.turn()
    term = world.dispatcher._store.term
    connection.client.pexpire("bj:leader", 1000)
    world.now_s += MAX_PASS_AGE_S
    assert renewal.renew()
    assert connection.client.pttl("bj:leader") > 3_000_000
    assert world.dispatcher._store.term == term


def test_a_dispatcher_whose_passes_hang_loses_the_leadership(world, connection, renewal):
    world.turn()
    connection.client.pexpire("bj:leader", 60_000)
    world.now_s += MAX_PASS_AGE_S + 1
    assert not renewal.renew()
    assert connection.client.pttl("bj:leader") <= 60_000
    world.turn()
    assert renewal.renew()


def test_a_leadership_that_has_expired_or_is_anothers_is_not_taken(world, connection, renewal):
    assert not renewal.renew(), "no pass has led yet"
    world.turn()
    store = world.dispatcher._store
    assert store.holds_lease
    connection.client.delete("bj:leader")
    assert not renewal.renew() and not store.holds_lease
    assert connection.client.get("bj:leader") is None
    world.turn()
    assert store.holds_lease
    connection.client.delete("bj:leader")
    assert world.new_dispatcher(owner="other:2").run_pass()
    assert not renewal.renew() and not store.holds_lease
    assert connection.client.get("bj:leader") == "other:2"


def test_a_leadership_that_nobody_renews_expires_by_our_own_clock_too(connection, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("bertjobs.jobs.store.dispatch_store.time.monotonic", lambda: now[0])
    store = DispatchStore(connection, owner="a", lease_s=10)
    assert not store.holds_lease
    assert store.lead() and store.holds_lease
    now[0] += 9
    assert store.holds_lease and store.renew()
    now[0] += 9
    assert store.holds_lease
    now[0] += 2
    assert not store.holds_lease
