"""A backup that is taken while Redis runs, and restored into another state of the queue."""

import os
import subprocess

import pytest
from redis_seven import NO_RESOURCES

from bertjobs.jobs.store.connection import open_connection
from bertjobs.jobs.store.job_store import JobStore
from secure_redis import REDIS


@pytest.fixture
def users(redis_7):
    """Return the store as users reach it; the server runs."""
    redis_7.start()
    store = JobStore(open_connection(redis_7.settings("cli")))
    yield store
    store.connection.close()


def submit(users):
    return users.submit("finetune", {}, storage="/nowhere", resources=NO_RESOURCES)[0].id


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".backup"))


def test_the_queue_of_a_backup_comes_back_and_the_one_before_is_kept(redis_7, users):
    first = submit(users)
    backup = redis_7.backup()
    assert backup.returncode == 0, backup.stderr
    assert b"1 jobs" in backup.stderr and b"the copy was loaded" in backup.stderr
    assert left_in(redis_7.data) == []
    second = submit(users)
    assert {job.id for job in users.list()} == {first, second}, "the server goes on"
    redis_7.kill()
    (redis_7.data / "restore.tar.gz").write_bytes(backup.stdout)
    redis_7.start()
    assert [job.id for job in users.list()] == [first]
    (kept,) = redis_7.data.glob("before-restore-*")
    assert {path.name for path in kept.iterdir()} == {"appendonlydir", "restored.tar.gz"}
    third = submit(users)
    redis_7.kill()
    redis_7.start()
    assert {job.id for job in users.list()} == {first, third}, "nothing is restored a second time"


def test_a_backup_is_whole_while_the_file_is_written_and_rewritten(redis_7, users):
    jobs = [submit(users) for _ in range(3)]
    client = users.connection.client
    before = client.info("persistence")["aof_rewrites"]
    redis_7.kill()
    redis_7.start("--auto-aof-rewrite-min-size", "1", "--auto-aof-rewrite-percentage", "1")
    backups = []
    while len(backups) < 3 or client.info("persistence")["aof_rewrites"] <= before:
        users.hold(jobs[0])
        users.release(jobs[0])
        backups.append(redis_7.backup())
    assert all(backup.returncode == 0 and b"3 jobs" in backup.stderr for backup in backups)


def test_a_restore_that_is_not_whole_starts_nothing_and_changes_nothing(redis_7, users):
    job = submit(users)
    archive = redis_7.backup().stdout
    redis_7.kill()
    (redis_7.data / "restore.tar.gz").write_bytes(archive[: len(archive) // 2])
    (command,) = redis_7.commands()
    started = subprocess.run(command.words, env=command.env, capture_output=True, text=True)
    assert started.returncode == 1 and "restore.tar.gz is not whole" in started.stderr
    (redis_7.data / "restore.tar.gz").unlink()
    redis_7.start()
    assert [found.id for found in users.list()] == [job]


def test_a_copy_that_cannot_be_loaded_is_no_backup(redis_7):
    folder = redis_7.data / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.manifest").write_text("file appendonly.aof.1.incr.aof seq 1 type i\n")
    (folder / "appendonly.aof.1.incr.aof").write_text("no commands\n" * 9)
    backup = redis_7.backup()
    assert backup.returncode == 1 and b"the copy cannot be loaded" in backup.stderr
    assert backup.stdout == b"" and left_in(redis_7.data) == []


def test_a_folder_without_an_append_only_file_is_an_error(tmp_path):
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_DATA": str(tmp_path)}
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "sleep").chmod(0o755)
    done = subprocess.run(["sh", str(REDIS / "backup.sh")], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and f"{tmp_path} has no append-only file" in done.stderr
