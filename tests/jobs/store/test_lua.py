"""The Lua scripts: the table of transitions, and that a script may be sent twice."""

import json
import re
from itertools import takewhile
from pathlib import Path

import pytest

import bertjobs.jobs.store
from bertjobs.jobs.job import REOPENED_BY_RETRY, TRANSITIONS, Grant, State
from bertjobs.jobs.retry import Failure, decide
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.lease_store import LeaseStore

pytestmark = pytest.mark.redis

LUA = Path(bertjobs.jobs.store.__file__).parent / "lua"

GRANT = Grant(workers=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1)


def test_python_and_lua_agree_on_every_transition(connection):
    dump = (LUA / "common.lua").read_text() + "\nreturn cjson.encode({NEXT, REOPENED, WAITING, TERMINAL})"
    following, reopened, waiting, terminal = json.loads(connection.client.eval(dump, 0, "{}"))
    pairs = {(a, b) for a in following for b in following[a]}
    assert set(following) == {str(state) for state in State}
    assert pairs == {(str(a), str(b)) for a in TRANSITIONS for b in TRANSITIONS[a]}
    assert set(reopened) == {str(state) for state in REOPENED_BY_RETRY}
    assert set(waiting) == {str(state) for state in State if state.is_waiting}
    assert set(terminal) == {str(state) for state in State if state.is_terminal}


@pytest.mark.parametrize("source", list(State))
@pytest.mark.parametrize("target", list(State))
def test_lua_moves_a_job_exactly_where_the_table_allows(connection, store, source, target, submit):
    job_id = submit()
    connection.client.hset(f"bj:job:{job_id}", "state", str(source))
    move = (LUA / "common.lua").read_text() + "\nreturn {pcall(move, arg.id, arg.to, 'Word', 'Sentence.')}"
    connection.client.eval(move, 0, json.dumps({"id": job_id, "to": str(target)}))
    moved = connection.client.hget(f"bj:job:{job_id}", "state")
    assert moved == str(target if target in TRANSITIONS[source] else source)


def test_no_script_walks_the_keyspace():
    scripts = sorted(LUA.glob("*.lua"))
    assert len(scripts) == 35
    for script in scripts:
        assert not re.search(r"call\('(KEYS|SCAN|FLUSH\w+)'", script.read_text()), script.name


def test_every_script_that_writes_leaves_the_same_state_when_it_is_sent_twice(
    store, connection, monkeypatch, submit, let_pass
):
    """What redis-py does after a timeout: the first call was carried out, its answer was lost."""
    run = connection.run

    def run_twice(script, /, **arg):
        run(script, **arg)
        return run(script, **arg)

    monkeypatch.setattr(connection, "run", run_twice)
    dispatch = DispatchStore(connection, owner="here:1", lease_s=60)
    job_id = submit(max_retries=1)
    assert sum(store.count().values()) == 1
    store.hold(job_id)
    store.release(job_id)
    assert dispatch.lead()
    live = dispatch.claim(job_id, grant=GRANT, placement={})
    assert (live.number, live.token) == (1, 1)
    lease = LeaseStore(connection, job_id=job_id, attempt=1, token=1, lease_s=15)
    lease.report(progress={"step": 1})
    lease.log_metrics({"loss": 1.0})
    lease.log_metrics({"loss": 0.5})
    lease.publish_checkpoint("step-1", step=1)
    failed = decide(Failure(word="UserError", message="no"), num_faults=0, num_charged=0, max_retries=1)
    assert lease.end(failed, nonce="n", metrics={}, artifacts={}) is State.RETRYING
    assert store.get(job_id).num_charged == 1
    let_pass(60)
    dispatch.note_gone(dispatch.live()[1][0])
    dispatch.promote()
    store.cancel(job_id)
    store.retry(job_id)
    assert store.metrics(job_id) == [{"loss": 1.0}, {"loss": 0.5}]
    expected = (
        "Submitted Held Submitted Admitted Stepping Checkpoint BackoffUntil Submitted Cancelled Submitted"
    )
    assert [e.reason for e in store.events(job_id)] == expected.split()


def test_every_script_documents_its_arguments_its_reply_and_its_errors():
    for script in sorted(LUA.glob("*.lua")):
        if script.name == "common.lua":
            continue
        text = script.read_text()
        header = list(takewhile(lambda line: line.startswith("--"), text.splitlines()))
        labels = [line.split(":")[0] for line in header if re.match(r"-- (ARGV|Reply|Errors): ", line)]
        assert labels == ["-- ARGV", "-- Reply", "-- Errors"], script.name
        returned = set(re.findall(r"return \{'([A-Z_]+)'", text)) - {"OK"}
        errors = "\n".join(header).partition("-- Errors: ")[2]
        documented = set(re.findall(r"[A-Z]{2,}(?:_[A-Z]+)*", errors))
        assert returned <= documented, script.name


def test_every_script_that_the_documents_name_exists():
    root = Path(__file__).parents[3]
    scripts = {script.name for script in LUA.glob("*.lua")}
    for document in [*(root / "docs").rglob("*.md"), root / "CONTRIBUTING.md", *LUA.parents[1].rglob("*.py")]:
        named = set(re.findall(r"`(\w+\.lua)`", document.read_text()))
        assert named <= scripts, document
