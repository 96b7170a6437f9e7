"""What a Redis user who may submit jobs can write there must neither reach a shell or another user's Ray Job,
nor leave the places of the storage, nor stop the jobs of others."""

import json
import shlex
from dataclasses import replace

import pytest

from bertjobs.jobs.job import JOB_ID, State, new_job_id
from bertjobs.jobs.retention import Retention
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.store.connection import QueueError, RecordInvalid, source_of
from bertjobs.storage import JobDir, StorageRoots

pytestmark = pytest.mark.redis

EVIL = "j-x; touch /tmp/made"


def forge(connection, job_id, name):
    """Store a copy of a job under another id, in every index."""
    client = connection.client
    fields = client.hgetall(f"bj:job:{job_id}")
    client.hset(f"bj:job:{name}", mapping=fields | {"id": name})
    for index in ("bj:all", "bj:queue", "bj:state:QUEUED"):
        client.zadd(index, {name: client.zscore(index, job_id) - 0.5})
    client.zadd("bj:changed", {name: client.incr("bj:version")})


def test_an_id_that_is_a_shell_command_is_never_started_and_holds_up_nobody(
    world, connection, submit, caplog
):
    job_id = submit()
    forge(connection, job_id, EVIL)
    world.turn(3)
    world.restart_dispatcher()  # the whole queue is read, not only what has changed
    world.turn(2)
    assert list(world.ray.jobs) == [f"bj-{job_id}-a1"]
    assert world.store.get(job_id).state is State.STARTING
    skipped = [record for record in caplog.messages if "touch /tmp/made" in record]
    assert len(skipped) == 2, "once for each dispatcher"
    assert "is not valid, and is skipped" in skipped[0]
    with pytest.raises(RecordInvalid, match="is not valid"):
        world.store.get(EVIL)
    assert [job.id for job in world.store.list()] == [job_id]


def test_the_entrypoint_is_quoted_for_the_shell(world, submit):
    world.dispatcher._supervisor._python = "/opt/my python/bin/python"
    job_id = submit()
    world.turn()
    entrypoint = world.ray.jobs[f"bj-{job_id}-a1"].message
    assert shlex.split(entrypoint) == ["/opt/my python/bin/python", "-m", "bertjobs.runs", job_id, "1", "1"]


def test_submit_refuses_an_id_of_another_form(connection, store, monkeypatch):
    monkeypatch.setattr("bertjobs.jobs.store.job_store.new_job_id", lambda: EVIL)
    with pytest.raises(QueueError, match="is not valid"):
        store.submit("finetune", {}, storage="/x", resources={})
    assert not connection.client.exists(f"bj:job:{EVIL}")


def test_python_and_lua_agree_on_what_an_id_is(connection):
    ids = [new_job_id(), "j-012345678", "j-01234567", "j-0123456789", "j-01234567A", " j-012345678", EVIL, ""]
    script = source_of("find").partition("-- Find")[0].split("local function job_key")[0]
    reply = connection.client.eval(
        script
        + "local out = {} for i, id in ipairs(arg.ids) do out[i] = is_job_id(id) and 1 or 0 end return out",
        0,
        json.dumps({"ids": ids}),
    )
    assert [bool(valid) for valid in reply] == [bool(JOB_ID.fullmatch(text)) for text in ids]


def test_a_forged_submission_id_stops_nobody_elses_ray_job(world, connection, submit):
    job_id = submit()
    world.turn()
    connection.client.hset(f"bj:job:{job_id}:a1", "submission_id", "somebody-elses")
    world.store.cancel(job_id)
    world.turn()
    world.passes(21)
    world.turn()
    assert world.ray.stops == [f"bj-{job_id}-a1"]
    assert world.store.get(job_id).attempt.submission_id == f"bj-{job_id}-a1"


def test_an_id_with_dots_in_live_set_is_neither_read_nor_stopped(world, connection, submit):
    job_id = submit()
    for member in ("garbage", "../../etc 1", f"{EVIL} 1", "j-000000000 1"):
        connection.client.sadd("bj:live", member)
    world.turn(2)
    assert list(world.ray.jobs) == [f"bj-{job_id}-a1"] and world.ray.stops == []


FORGED_FIELDS = [
    {"resources": "{}"},
    {"resources": '{"gpus": 1e999, "workers": null, "cpus_per_worker": null}'},
    {"resources": '{"gpus": "8", "workers": null, "cpus_per_worker": null}'},
    {"resources": "["},
    {"after": "no list"},
    {"after": '["../x"]'},
    {"num_attempts": "many"},
    {"priority": "high"},
    {"token": "x"},
    {"used_ms": ""},
    {"time_limit_s": "soon"},
    {"queued_at": "x"},
]


@pytest.mark.parametrize("fields", FORGED_FIELDS, ids=str)
def test_a_waiting_job_that_cannot_be_read_is_skipped_and_the_next_one_starts(
    world, connection, submit, fields, caplog
):
    broken, job_id = submit(priority=5), submit()
    connection.client.hset(f"bj:job:{broken}", mapping=fields)
    world.turn(3)
    assert world.store.get(job_id).state is State.STARTING
    assert list(world.ray.jobs) == [f"bj-{job_id}-a1"]
    assert len([text for text in caplog.messages if broken in text]) == 1, "logged once"


@pytest.mark.parametrize(
    "fields",
    [
        {"plan": '{"n1": [-1e9, 0]}'},
        {"plan": '{"n1": [NaN, 0]}'},
        {"plan": "["},
        {"grant": "{}"},
        {"token": ""},
    ],
    ids=str,
)
def test_a_live_attempt_that_cannot_be_read_is_skipped_and_the_next_job_starts(
    world, connection, submit, fields, caplog
):
    broken = submit()
    world.turn()
    connection.client.hset(f"bj:job:{broken}:a1", mapping=fields)
    world.ray.nodes[0] = replace(world.ray.nodes[0], cpus=8)
    world.restart_dispatcher()
    job_id = submit()
    world.turn(3)
    assert world.store.get(job_id).state is State.STARTING
    assert len([text for text in caplog.messages if broken in text and "skipped" in text]) == 1


def test_a_delayed_entry_that_is_no_retrying_job_does_not_stop_the_pass(world, connection, submit):
    job_id = submit()
    for name in (EVIL, "j-000000000", job_id):
        connection.client.zadd("bj:delay", {name: 0})
    world.turn(2)
    assert world.store.get(job_id).state is State.STARTING
    assert not connection.client.exists("bj:delay")


def test_no_log_is_copied_to_a_storage_outside_the_roots(world, submit, tmp_path, caplog):
    inside, outside = tmp_path / "storage", tmp_path / "elsewhere"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    world.roots = StorageRoots([str(inside)])
    world.restart_dispatcher()
    world.ray.nodes[0] = replace(world.ray.nodes[0], cpus=64)
    storages = [outside, inside / ".." / "elsewhere", inside / "link", inside / "ada"]
    jobs = [submit(storage=str(storage), resources={"cpus_per_worker": 1}) for storage in storages]
    world.turn()
    for job_id in jobs:
        world.ray.logs[f"bj-{job_id}-a1"] = "one\n"
    for _ in range(3):
        world.passes(2)
        world.turn()
    assert not outside.exists()
    assert (inside / "ada" / jobs[-1] / "logs/a1.log").read_text() == "one\n"
    assert len([text for text in caplog.messages if "BERTJOBS_STORAGE_ROOTS" in text]) == 3


def test_nothing_is_deleted_outside_the_roots_and_the_job_is_forgotten_all_the_same(
    world, connection, submit, tmp_path, caplog
):
    job_id = submit(storage=str(tmp_path / "elsewhere"))
    world.turn()
    done = RetryDecision(state=State.SUCCEEDED, reason="", message="")
    world.driver(job_id).end(done, nonce="n", metrics={}, artifacts={})
    world.ray.ends(f"bj-{job_id}-a1", "SUCCEEDED")
    world.turn()
    kept = tmp_path / "elsewhere" / job_id / "logs" / "a1.log"
    kept.parent.mkdir(parents=True)
    kept.write_text("precious")
    retention = Retention(connection, roots=StorageRoots([str(tmp_path / "storage")]))
    (cleaned,) = retention.clean(older_than_s=0)
    assert (cleaned.removed, cleaned.is_forgotten) == ((), True)
    assert kept.read_text() == "precious" and "nothing is removed" in caplog.text


def test_an_ended_job_that_cannot_be_read_does_not_stop_the_cleanup(world, connection, submit, tmp_path):
    job_id = submit(storage=str(tmp_path), keep_s=1.0)
    world.store.cancel(job_id)
    for name in (EVIL, "j-000000000", job_id):
        connection.client.zadd("bj:expiry", {name: 1})
    connection.client.zadd("bj:state:FAILED", {EVIL: 1, "j-000000000": 1})
    for older_than_s in (None, 0):
        cleaned = list(Retention(connection, roots=StorageRoots(None)).clean(older_than_s=older_than_s))
        assert [job.job_id for job in cleaned] == ([job_id] if older_than_s is None else [])


@pytest.mark.parametrize(
    ("storage", "is_inside"),
    [
        ("s3://bucket/jobs", True),
        ("s3://bucket/jobs/ada", True),
        ("s3://bucket/jobs2", False),
        ("s3://bucket/jobs/../other", False),
        ("s3://bucket/jobs/%2e%2e/other", False),
        ("s3://bucket/jobs/x?endpoint_override=evil", False),
        ("s3://bucket", False),
        ("gs://bucket/jobs", False),
        ("/storage", True),
        ("/storage/ada/", True),
        ("file:///storage/ada", True),
        ("/storage2", False),
        ("/", False),
        ("storage", False),
        ("/storage/\0", False),
    ],
)
def test_storage_roots_contain_what_is_below_them(storage, is_inside):
    roots = StorageRoots(["s3://bucket/jobs/", "/storage"])
    assert roots.contain(JobDir(storage, "j-000000000")) is is_inside
    assert StorageRoots(None).contain(JobDir(storage, "j-000000000"))
