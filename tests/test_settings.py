"""The environment: what is read, what is made of it, and what is refused."""

import os
import subprocess
import sys
from collections import UserDict
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import ConfigError
from bertjobs.settings import load_settings, settings_table, thread_environment


def test_an_empty_environment_means_an_embedded_stack_under_the_users_home():
    settings = load_settings({})
    home = Path.home() / ".bertjobs"
    assert (settings.home, settings.cache, settings.storage) == (home, home / "cache", str(home / "jobs"))
    assert settings.is_embedded
    assert (settings.redis_url, settings.redis_password, settings.ray_address) == (None, None, None)
    assert (settings.lease_s, settings.is_stack_member) == (15.0, False)


def test_an_empty_variable_counts_as_unset():
    names = ("HOME", "STORAGE", "CACHE", "REDIS_URL", "REDIS_PASSWORD", "RAY_ADDRESS", "LEASE_S")
    assert load_settings({f"BERTJOBS_{name}": "" for name in names}) == load_settings({})


def test_relative_folders_become_absolute_because_a_job_runs_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"BERTJOBS_HOME": "home", "BERTJOBS_STORAGE": "results/jobs", "BERTJOBS_CACHE": "../cache"}
    settings = load_settings(given)
    monkeypatch.chdir("/")
    assert settings.home == tmp_path / "home"
    assert settings.storage == str(tmp_path / "results" / "jobs")
    assert settings.cache.is_absolute()
    assert settings.cache.resolve() == tmp_path.parent / "cache"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("~/jobs", str(Path("~/jobs").expanduser())),
        ("/data/jobs", "/data/jobs"),
        ("file:///data/jobs", "/data/jobs"),
        ("s3://bucket/jobs", "s3://bucket/jobs"),
        ("mock://jobs", "mock://jobs"),
    ],
)
def test_the_storage_is_a_folder_or_an_address(given, read):
    assert load_settings({"BERTJOBS_STORAGE": given}).storage == read


def test_encoded_corpora_are_in_the_cache_or_where_all_nodes_of_a_cluster_see_them():
    shared = {"BERTJOBS_REDIS_URL": "redis://somewhere", "BERTJOBS_STORAGE": "s3://bucket/jobs"}
    assert load_settings({"BERTJOBS_CACHE": "/cache"}).encoded_corpora == "/cache/encoded"
    assert load_settings(shared).encoded_corpora == "s3://bucket/jobs/encoded"
    given = load_settings({**shared, "BERTJOBS_ENCODED": "file:///fast"})
    assert given.encoded_corpora == "/fast"
    assert replace(load_settings(shared), storage="/jobs").encoded_corpora == "/jobs/encoded"


def test_one_address_alone_means_no_embedded_stack():
    assert not load_settings({"BERTJOBS_REDIS_URL": "redis://somewhere"}).is_embedded
    assert not load_settings({"BERTJOBS_RAY_ADDRESS": "http://somewhere:8265"}).is_embedded


def test_a_password_is_read_from_a_file_before_the_variable(tmp_path):
    file = tmp_path / "password"
    file.write_text("from file\n")
    given = {"BERTJOBS_REDIS_PASSWORD": "from variable"}
    assert load_settings(given).redis_password == "from variable"
    given["BERTJOBS_REDIS_PASSWORD_FILE"] = str(file)
    assert load_settings(given).redis_password == "from file"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00password"])
def test_a_password_file_that_cannot_be_read_is_named_with_what_to_do(tmp_path, content):
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    cause = "No such file or directory" if content is None else "it is not text"
    with pytest.raises(ConfigError) as raised:
        load_settings({"BERTJOBS_REDIS_PASSWORD_FILE": str(file)})
    assert raised.value.message == f"BERTJOBS_REDIS_PASSWORD_FILE={file} cannot be read: {cause}"
    assert "Name a file that holds the password" in raised.value.hint


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", "inf"])
def test_a_lease_that_is_not_a_positive_number_of_seconds_is_refused(given):
    with pytest.raises(ConfigError) as raised:
        load_settings({"BERTJOBS_LEASE_S": given})
    assert raised.value.message == f"BERTJOBS_LEASE_S={given} is not a positive number of seconds"
    assert raised.value.hint == "Unset it for 15 s."


def test_a_lease_may_be_shorter_than_a_second():
    assert load_settings({"BERTJOBS_LEASE_S": "0.5"}).lease_s == 0.5


def test_user_and_certificates_for_redis_are_read_and_the_password_is_not_shown(tmp_path):
    given = {"REDIS_USER": "cli", "REDIS_CA_FILE": "~/ca.crt", "REDIS_PASSWORD": "s3cret"}
    settings = load_settings({f"BERTJOBS_{name}": value for name, value in given.items()})
    assert (settings.redis_user, settings.redis_ca_file) == ("cli", Path("~/ca.crt").expanduser())
    assert "s3cret" not in repr(settings)


def test_the_shared_folders_are_the_named_ones_and_the_storage():
    named = load_settings({"BERTJOBS_STORAGE": "/storage", "BERTJOBS_SHARED_FOLDERS": "/data:/models"})
    assert named.shared_folders == (Path("/data"), Path("/models"), Path("/storage"))
    assert load_settings({"BERTJOBS_STORAGE": "s3://bucket"}).shared_folders == ()


def test_uploads_have_a_limit():
    assert load_settings({}).max_upload_mb == 1000
    with pytest.raises(ConfigError) as raised:
        load_settings({"BERTJOBS_MAX_UPLOAD_MB": "-1"})
    assert raised.value.message == "BERTJOBS_MAX_UPLOAD_MB=-1 is not a positive number of MB"
    assert raised.value.hint == "Unset it for 1000 MB."


def test_the_python_of_the_nodes_is_ours_unless_named():
    assert load_settings({}).node_python == sys.executable
    assert load_settings({"BERTJOBS_NODE_PYTHON": "/opt/bin/python"}).node_python == "/opt/bin/python"


def test_only_a_redis_on_a_unix_socket_is_certainly_on_one_machine():
    assert load_settings({}).is_one_machine
    ray = {"BERTJOBS_RAY_ADDRESS": "http://ray:8265"}
    assert load_settings(ray | {"BERTJOBS_REDIS_URL": "unix:///tmp/redis.sock"}).is_one_machine
    assert not load_settings(ray | {"BERTJOBS_REDIS_URL": "redis://localhost:6379"}).is_one_machine


def test_a_port_and_a_retention_time_are_unset_by_default_and_checked():
    nothing = load_settings({})
    assert (nothing.keep_s, nothing.metrics_port) == (None, None)
    given = load_settings({"BERTJOBS_KEEP_S": "3600", "BERTJOBS_METRICS_PORT": "9100"})
    assert (given.keep_s, given.metrics_port) == (3600.0, 9100)
    with pytest.raises(ConfigError, match=r"BERTJOBS_METRICS_PORT=70000 is not a port\. Give a number"):
        load_settings({"BERTJOBS_METRICS_PORT": "70000"})
    with pytest.raises(ConfigError, match=r"BERTJOBS_KEEP_S=soon is not a positive .* Unset it for no limit"):
        load_settings({"BERTJOBS_KEEP_S": "soon"})


def test_a_test_says_what_the_cpu_has_or_the_processor_is_asked():
    assert load_settings({}).test_precision is None
    assert load_settings({"BERTJOBS_TEST_PRECISION": ""}).test_precision is None
    for given in ("bf16", "fp32"):
        assert load_settings({"BERTJOBS_TEST_PRECISION": given}).test_precision == given
    with pytest.raises(ConfigError, match=r"^BERTJOBS_TEST_PRECISION=fp16 is neither bf16 nor fp32\b"):
        load_settings({"BERTJOBS_TEST_PRECISION": "fp16"})


class ReadVariables(UserDict[str, str]):
    """An environment that records which variables are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, key, default=None):
        self.names.add(key)
        return default

    def __contains__(self, key):
        self.names.add(key)
        return False


def test_the_table_lists_exactly_the_variables_that_are_read():
    environ = ReadVariables()
    load_settings(environ)
    assert {setting.variable for setting in settings_table()} == environ.names


def test_every_setting_has_a_type_and_a_sentence():
    for setting in settings_table():
        assert setting.type
        assert setting.meaning.endswith("."), setting.variable


def test_only_a_shared_installation_limits_where_the_storage_of_jobs_may_be():
    shared = {"BERTJOBS_REDIS_URL": "redis://r", "BERTJOBS_STORAGE": "/storage"}
    assert load_settings(shared).allowed_storage == ("/storage",)
    more = shared | {"BERTJOBS_STORAGE_ROOTS": "/scratch, s3://bucket/jobs"}
    assert load_settings(more).allowed_storage == ("/storage", "/scratch", "s3://bucket/jobs")
    assert load_settings(shared | {"BERTJOBS_STACK_MEMBER": "1"}).allowed_storage is None
    assert load_settings({}).allowed_storage is None


def test_the_number_of_drivers_is_a_positive_whole_number():
    assert load_settings({"BERTJOBS_MAX_DRIVERS": "12"}).max_drivers == 12
    assert load_settings({}).max_drivers is None
    for wrong in ("0", "-1", "2.5", "many"):
        with pytest.raises(ConfigError, match=f"BERTJOBS_MAX_DRIVERS={wrong} is not a positive whole number"):
            load_settings({"BERTJOBS_MAX_DRIVERS": wrong})


def test_threads_wait_as_the_user_says_else_only_a_moment():
    assert thread_environment({}) == {"GOMP_SPINCOUNT": "1000"}
    assert thread_environment({"GOMP_SPINCOUNT": "5"}) == {}
    assert thread_environment({"OMP_WAIT_POLICY": "ACTIVE"}) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch has another OpenMP")
def test_torchs_openmp_reads_how_threads_wait():
    """Fails where torch comes with another OpenMP, which would have another variable."""
    shown = subprocess.run(
        [sys.executable, "-c", "import torch"],
        env=os.environ | {"OMP_DISPLAY_ENV": "VERBOSE", **thread_environment({})},
        stderr=subprocess.PIPE, text=True, check=True,
    ).stderr  # fmt: skip
    assert "GOMP_SPINCOUNT = '1000'" in shown
