"""Connecting to Redis: what is refused, and what the errors advise."""

from dataclasses import replace

import pytest

from bertjobs.errors import ConfigError, QueueError
from bertjobs.jobs.store.connection import open_connection
from bertjobs.jobs.store.job_store import JobStore, connect

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
