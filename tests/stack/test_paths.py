"""The paths of a stack, with homes of all kinds."""

import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bertjobs import stack
from bertjobs.errors import StorageError
from bertjobs.settings import load_settings
from bertjobs.stack.paths import MAX_SOCKET_BYTES, stack_paths

pytestmark = pytest.mark.redis

ENSURE = (
    "from bertjobs import stack; from bertjobs.settings import load_settings; "
    "print(stack.ensure(load_settings(), announce=lambda line: None, need_ray=False).redis_url)"
)


def ensure_redis(settings, said=None):
    announce = (said if said is not None else []).append
    return stack.ensure(settings, announce=announce, need_ray=False).redis_url


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


def test_a_path_too_long_for_a_socket_goes_to_a_short_private_folder(tmp_path, client):
    deep = load_settings({"BERTJOBS_HOME": str(tmp_path / ("a" * 60) / ("b" * 60))})
    paths = stack_paths(deep)
    try:
        assert client(ensure_redis(deep)).ping()
        assert len(os.fsencode(paths.redis_socket)) <= MAX_SOCKET_BYTES
        assert stat.S_IMODE(paths.runtime_dir.stat().st_mode) == 0o700
        assert append_only_file(paths).is_file()
    finally:
        stack.down(deep, announce=lambda line: None)
        shutil.rmtree(paths.runtime_dir)


def test_a_short_folder_that_others_can_enter_is_refused(tmp_path):
    deep = load_settings({"BERTJOBS_HOME": str(tmp_path / ("a" * 60) / ("c" * 60))})
    runtime = stack_paths(deep).runtime_dir
    runtime.mkdir()
    runtime.chmod(0o755)
    try:
        with pytest.raises(StorageError, match="is not a folder that only this user can enter"):
            ensure_redis(deep)
    finally:
        runtime.rmdir()


def test_a_home_with_blanks_and_special_characters_works(tmp_path, client):
    odd = load_settings({"BERTJOBS_HOME": str(tmp_path / "my home 50%?#ü")})
    paths = stack_paths(odd)
    try:
        assert client(ensure_redis(odd)).ping()
    finally:
        stack.down(odd, announce=lambda line: None)
        shutil.rmtree(paths.runtime_dir or paths.redis_dir)


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
    assert "free some space" in done.stderr
    assert servers_of(settings) == []
