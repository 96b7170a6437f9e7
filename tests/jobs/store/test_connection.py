"""Connecting to Redis: what is refused, and what the errors advise."""

from dataclasses import replace
from typing import Any

import pytest
from redis._parsers import BaseParser
from redis.exceptions import ResponseError

from bertjobs.errors import ConfigError, QueueError
from bertjobs.jobs.job import State
from bertjobs.jobs.store.connection import RedisDown, open_connection
from bertjobs.jobs.store.job_store import JobStore, connect
from redis_refusals import REFUSALS, refusing_writes

pytestmark = pytest.mark.redis


def test_a_password_in_the_address_is_refused_without_repeating_it(settings):
    with pytest.raises(ConfigError, match="contains a password") as error:
        connect(replace(settings, redis_url="redis://:s3cret@host/0"))
    assert "s3cret" not in str(error.value)


def test_no_address_and_a_wrong_one_say_what_to_set(settings):
    with pytest.raises(ConfigError, match="BERTJOBS_REDIS_URL, or run `bertjobs cluster up`"):
        connect(replace(settings, redis_url=None))
    with pytest.raises(ConfigError, match="is not the address of a Redis"):
        connect(replace(settings, redis_url="http://host"))


def test_a_redis_that_is_down_is_an_error_with_a_remedy(settings):
    with pytest.raises(QueueError, match=r"cannot be reached.*bertjobs cluster up"):
        connect(replace(settings, redis_url="redis://127.0.0.1:1/0"))


def test_a_wrong_password_is_an_error_that_names_the_variable(settings, connection):
    connection.client.config_set("requirepass", "right")
    try:
        for given in ("wrong", None):
            with pytest.raises(QueueError, match=r"refuses us.*BERTJOBS_REDIS_PASSWORD") as error:
                connect(replace(settings, redis_password=given))
            assert error.value.exit_code == 2
        connect(replace(settings, redis_password="right")).close()
    finally:
        connection.client.config_set("requirepass", "")


def test_a_user_without_rights_is_told_which_are_needed(settings, connection):
    connection.client.acl_setuser("reader", enabled=True, passwords=["+pw"], categories=["+@connection"])
    try:
        limited = JobStore(open_connection(replace(settings, redis_user="reader", redis_password="pw")))
        with pytest.raises(QueueError, match=r"does not let user reader do this.*BERTJOBS_REDIS_USER"):
            limited.list()
        limited.close()
    finally:
        connection.client.acl_deluser("reader")


@pytest.mark.parametrize("word", REFUSALS)
def test_a_redis_that_refuses_writes_is_down_for_programs_and_has_a_remedy_for_people(
    connection, submit, word
):
    client: Any = connection.client
    job_id = submit()
    with refusing_writes(client, word) as said:
        for write in (submit, lambda: connection.client.set("bj:test", "1")):
            with pytest.raises(RedisDown, match=said) as error, connection.errors():
                write()
            assert error.value.exit_code == 2
        assert JobStore(connection).get(job_id).state is State.QUEUED, "it can still be read"
    assert JobStore(connection).get(submit()).state is State.QUEUED


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("LOADING Redis is loading the dataset in memory", "is loading its data from disk"),
        (
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "lost its primary",
        ),
        ("BUSY Redis is busy running a script.", "busy with another script"),
        (
            "OOM command not allowed when used memory > 'maxmemory'. script: 5f0e, on @user_script:12.",
            "memory",
        ),
        (
            "READONLY You can't write against a read only replica. script: 5f0e, on @user_script:12.",
            "read-only",
        ),
        (
            "ERR Error running script (call to f_5f0e): @user_script:12: @user_script: 12: "
            "-MISCONF Errors writing to the AOF file: No space left on device",
            "cannot save",
        ),
    ],
)
def test_each_way_in_which_a_redis_says_not_now_counts_as_down(connection, reply, said):
    with pytest.raises(RedisDown, match=said), connection.errors():
        raise BaseParser.parse_error(reply)


def test_an_error_in_our_script_is_not_an_outage(connection):
    with pytest.raises(ResponseError), connection.errors():
        raise BaseParser.parse_error(
            "ERR Error running script (call to f_5f0e): @user_script:12: OOM is a word"
        )
