"""A job's folder: what is published is whole, what fails names the place and the remedy."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pyarrow.fs import FileSystem
from safetensors.numpy import save_file

from bertjobs import storage
from bertjobs.errors import ModelError, StorageError
from bertjobs.storage import JobDir, write_atomically

STORAGE_OWNER = 61000
"""Whom the containers run as, and the number of the group of those who may submit."""


@pytest.fixture
def job_dir(tmp_path: Path) -> JobDir:
    return JobDir(str(tmp_path), "j-1")


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    yield
    os.umask(before)


@contextmanager
def mounted(folder: Path, *, options: str) -> Iterator[Path]:
    """Mount a file system in memory where this user may, else skip."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def acting_as(uid: int, *, groups: list[int], mask: int) -> Iterator[None]:
    """Have the file system take this process for another user, where it may, else skip."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as other users")
    before = os.getgroups()
    os.setgroups(groups)
    os.setegid(uid)
    os.seteuid(uid)
    try:
        with umask(mask):
            yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


@pytest.fixture
def storage_of_a_group() -> Iterator[Path]:
    """Return a storage as docker/README.md has it made, in a folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="bj-") as folder:
        Path(folder).chmod(0o755)
        root = Path(folder) / "storage"
        root.mkdir()
        if os.geteuid() == 0:
            os.chown(root, STORAGE_OWNER, STORAGE_OWNER)
        root.chmod(0o3775)
        yield root


def publish(job_dir: JobDir, name: str, content: str) -> None:
    with job_dir.new_dir(name) as folder:
        (folder / "file").write_text(content)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Files


def test_what_is_written_is_read_again(job_dir, tmp_path):
    job_dir.write_bytes("plots/a.png", b"\x89PNG")
    job_dir.write_json("metrics.json", {"accuracy": 0.5, "labels": ["ä"]})
    assert job_dir.read_bytes("plots/a.png") == b"\x89PNG"
    assert job_dir.read_json("metrics.json") == {"accuracy": 0.5, "labels": ["ä"]}
    assert job_dir.path_of("metrics.json") == str(tmp_path / "j-1" / "metrics.json")
    assert names_in(tmp_path / "j-1") == ["metrics.json", "plots"]


def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(job_dir, tmp_path, monkeypatch):
    job_dir.write_bytes("a", b"former")

    def no_room(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", no_room)
    with pytest.raises(StorageError, match="No space left on device"):
        job_dir.write_bytes("a", b"latter")
    assert job_dir.read_bytes("a") == b"former"
    assert names_in(tmp_path / "j-1") == ["a"]


@pytest.mark.parametrize(
    ("start", "found"), [(0, b"abcde"), (3, b"de"), (9, b""), (-2, b"de"), (-9, b"abcde")]
)
def test_a_file_is_read_from_a_byte_on_or_from_its_end(job_dir, start, found):
    job_dir.write_bytes("logs/a1.log", b"abcde")
    assert job_dir.read_bytes("logs/a1.log", start=start) == found


def test_a_reader_sees_all_of_a_file_or_the_former_one(tmp_path, monkeypatch):
    """At the moment when all is written, the former file still has its name."""
    target = tmp_path / "a"
    write_atomically(target, b"former")
    seen = []
    monkeypatch.setattr(storage.os, "fsync", lambda _handle: seen.append(target.read_bytes()))
    write_atomically(target, b"latter")
    # Flushed twice: the content before the rename, and the folder with the new name after it.
    assert (seen, target.read_bytes()) == ([b"former", b"latter"], b"latter")


def test_a_missing_file_is_named(job_dir, tmp_path):
    with pytest.raises(StorageError) as raised:
        job_dir.read_bytes("metrics.json")
    assert raised.value.message == f"{tmp_path}/j-1/metrics.json: No such file or directory"
    assert "BERTJOBS_STORAGE" in raised.value.hint


def test_removing_works_for_files_folders_and_what_does_not_exist(job_dir):
    job_dir.write_bytes("a", b"")
    publish(job_dir, "checkpoints/one", "1")
    for name in ("a", "checkpoints/one", "never"):
        job_dir.remove(name)
        assert not job_dir.exists(name)


def test_a_listing_is_sorted_has_only_what_is_published_and_may_be_empty(job_dir):
    assert job_dir.list("checkpoints") == []
    for name in ("b", "a"):
        publish(job_dir, f"checkpoints/{name}", name)
    with job_dir.new_dir("checkpoints/c"):
        assert job_dir.list("checkpoints") == ["a", "b"]
        assert job_dir.list("") == ["checkpoints"]
    assert job_dir.list("checkpoints") == ["a", "b", "c"]


def test_probing_leaves_nothing_behind(job_dir, tmp_path):
    job_dir.check_writable()
    assert names_in(tmp_path / "j-1") == []


# Folders


def test_a_folder_appears_when_its_block_has_ended(job_dir):
    with job_dir.new_dir("model") as folder:
        (folder / "file").write_text("whole")
        assert not job_dir.exists("model")
    with job_dir.open_dir("model") as folder:
        assert (folder / "file").read_text() == "whole"


def test_a_folder_replaces_the_former_one(job_dir, tmp_path):
    with job_dir.new_dir("model") as folder:
        (folder / "only before").touch()
    publish(job_dir, "model", "second")
    assert names_in(tmp_path / "j-1") == ["model"]
    assert names_in(tmp_path / "j-1" / "model") == ["file"]


def test_a_block_that_fails_leaves_the_former_folder_and_nothing_else(job_dir, tmp_path):
    publish(job_dir, "model", "former")
    with pytest.raises(ModelError, match="not this one"), job_dir.new_dir("model") as folder:
        (folder / "file").write_text("half")
        raise ModelError("not this one")
    assert names_in(tmp_path / "j-1") == ["model"]
    assert job_dir.read_bytes("model/file") == b"former"


def test_a_rename_that_fails_puts_the_former_folder_back(job_dir, tmp_path, monkeypatch):
    publish(job_dir, "model", "former")
    rename = Path.rename

    def refuse_the_new_one(self: Path, target: Path) -> Path:
        if self.name.startswith(".new-"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(StorageError, match="Input/output error") as raised:
        publish(job_dir, "model", "latter")
    assert raised.value.may_pass, "the next attempt may find the storage well"
    assert names_in(tmp_path / "j-1") == ["model"]
    assert job_dir.read_bytes("model/file") == b"former"


@pytest.mark.parametrize("name", ["model", "checkpoints/step-00000010"])
def test_a_process_killed_between_the_renames_loses_nothing(job_dir, tmp_path, monkeypatch, name):
    class Killed(BaseException):
        """Stands for SIGKILL: nothing is cleaned up after it."""

    publish(job_dir, name, "former")
    rename = Path.rename

    def die_before_the_second(self: Path, target: Path) -> Path:
        if self.name.startswith(".new-"):
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die_before_the_second)
        patch.setattr(storage.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            publish(job_dir, name, "latter")
    assert not job_dir.exists(name)
    job_dir.recover()
    assert job_dir.read_bytes(f"{name}/file") == b"former"
    assert names_in(tmp_path / "j-1") == [name.split("/")[0]]
    assert job_dir.list(Path(name).parent.name) == [Path(name).name]


def test_recovering_removes_what_was_being_written_and_what_was_replaced(job_dir, tmp_path):
    publish(job_dir, "model", "latter")
    for leftover in (".new-0123abcd", ".old-model-0123abcd"):
        (tmp_path / "j-1" / leftover).mkdir()
        (tmp_path / "j-1" / leftover / "file").write_text("former")
    (tmp_path / "j-1" / ".new-of the user").mkdir()
    job_dir.recover()
    assert names_in(tmp_path / "j-1") == [".new-of the user", "model"]
    assert job_dir.read_bytes("model/file") == b"latter"


def test_there_is_nothing_to_recover_where_there_is_no_folder_yet(job_dir, tmp_path):
    job_dir.recover()
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("mask", "folder_mode", "file_mode"),
    [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600), (0o002, 0o775, 0o664)],
)
def test_others_may_read_what_the_umask_allows(job_dir, tmp_path, mask, folder_mode, file_mode):
    with umask(mask):
        with job_dir.new_dir("model") as folder:
            (folder / "inner").mkdir()
            for path in (folder / "model.safetensors", folder / "inner" / "more.safetensors"):
                save_file({"a": np.zeros(1)}, path)
                path.chmod(0o600)  # as some versions of safetensors write
        job_dir.write_bytes("metrics.json", b"{}")
    root = tmp_path / "j-1"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}
    assert len(modes) == 5
    assert modes[root / "model"] == modes[root / "model/inner"] == folder_mode
    assert {modes[path] for path in modes if path.is_file()} == {file_mode}


def test_an_error_of_the_reader_of_a_folder_is_not_an_error_of_the_storage(job_dir, tmp_path):
    publish(job_dir, "model", "whole")
    with pytest.raises(FileNotFoundError), job_dir.open_dir("model"):
        (tmp_path / "something else").read_bytes()


def test_opening_a_folder_that_does_not_exist_names_its_path(job_dir, tmp_path):
    with pytest.raises(StorageError) as raised, job_dir.open_dir("model"):
        pytest.fail("there is nothing to open")
    assert str(raised.value) == f"{tmp_path}/j-1/model does not exist. Set BERTJOBS_STORAGE to where it is."


# Several users


@pytest.mark.parametrize("mask", [0o022, 0o077], ids=["usual-umask", "closed-umask"])
def test_users_of_a_group_replace_what_others_sent_and_the_owner_of_the_storage_removes_it(
    storage_of_a_group, mask
):
    sent = JobDir(str(storage_of_a_group), "inputs", is_shared=True)
    with acting_as(61001, groups=[STORAGE_OWNER], mask=mask):
        sent.check_writable()
        with sent.new_dir("key") as folder:
            (folder / "data").mkdir()
            (folder / "data" / "rows").write_text("of the first")
        sent.write_json("key/list", ["first"])
    with acting_as(61002, groups=[STORAGE_OWNER], mask=mask):
        sent.check_writable()
        assert sent.read_bytes("key/data/rows") == b"of the first"
        sent.write_json("key/list", ["second"])
        publish(sent, "key", "of the second")
        publish(sent, "other", "")
    with acting_as(STORAGE_OWNER, groups=[], mask=0o022):
        assert sent.read_bytes("key/file") == b"of the second"
        for name in ("key", "other"):
            sent.remove(name)
        assert sent.list("") == []


def test_users_of_the_group_cannot_change_a_job_of_another(storage_of_a_group):
    job = JobDir(str(storage_of_a_group), "j-1")
    with acting_as(STORAGE_OWNER, groups=[], mask=0o022):
        job.write_json("metrics.json", {})
        publish(job, "model-a1", "")
    with acting_as(61001, groups=[STORAGE_OWNER], mask=0o022):
        assert job.read_json("metrics.json") == {}
        for change in (
            lambda: job.remove("metrics.json"),
            lambda: publish(job, "model-a1", "another"),
            lambda: (storage_of_a_group / "j-1").rename(storage_of_a_group / "j-2"),
        ):
            with pytest.raises((StorageError, PermissionError)):
                change()


def test_a_storage_without_a_group_stays_as_the_umask_leaves_it(tmp_path):
    with umask(0o077):
        publish(JobDir(str(tmp_path), "inputs", is_shared=True), "key", "")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "inputs").rglob("*")} == {0o700, 0o600}


# Places that cannot be written


def test_a_file_in_place_of_the_folder_is_named_with_what_to_do(tmp_path):
    (tmp_path / "jobs").touch()
    job_dir = JobDir(str(tmp_path / "jobs"), "j-1")
    for attempt in (job_dir.check_writable, lambda: publish(job_dir, "model", "")):
        with pytest.raises(StorageError) as raised:
            attempt()
        assert f"{tmp_path}/jobs" in raised.value.message
        assert raised.value.hint.startswith("A file is where a folder should be: remove it")


def test_a_read_only_place_is_named_with_what_to_do(tmp_path):
    with mounted(tmp_path / "ro", options="ro,size=1m") as root:
        job_dir = JobDir(str(root), "j-1")
        for attempt in (job_dir.check_writable, lambda: publish(job_dir, "model", "")):
            with pytest.raises(StorageError) as raised:
                attempt()
            assert "Read-only file system" in raised.value.message
            assert raised.value.hint == (
                "The file system is read-only: set BERTJOBS_STORAGE to a writable place."
            )


def test_a_full_disk_is_named_with_what_to_do_whoever_writes_and_keeps_what_was_published(tmp_path):
    with mounted(tmp_path / "tiny", options="size=256k") as root:
        job_dir = JobDir(str(root), "j-1")
        publish(job_dir, "model", "former")
        too_large = np.ones(1 << 20, dtype=np.uint8)
        writers = (
            lambda folder: (folder / "a").write_bytes(too_large.tobytes()),
            lambda folder: save_file({"a": too_large}, folder / "a"),
        )
        for write in writers:
            with pytest.raises(StorageError) as raised, job_dir.new_dir("model") as folder:
                write(folder)
            assert raised.value.message == f"{root}/j-1/model: No space left on device"
            assert raised.value.hint.startswith("The disk is full: free room there, or set BERTJOBS_STORAGE")
        with pytest.raises(StorageError, match="The disk is full"):
            job_dir.write_bytes("a", too_large.tobytes())
        assert names_in(root / "j-1") == ["model"]
        assert job_dir.read_bytes("model/file") == b"former"


def test_the_limit_on_the_size_of_files_is_named_with_what_to_do(job_dir):
    """Needs no mount: the kernel refuses the write as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match="ulimit -f"):
            job_dir.write_bytes("a", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert job_dir.list("") == []


def test_another_error_inside_a_new_folder_is_left_as_it_is(job_dir):
    with pytest.raises(ZeroDivisionError), job_dir.new_dir("model"):
        _ = 1 / 0
    with pytest.raises(StorageError, match="mine"), job_dir.new_dir("model"):
        raise StorageError("mine")


# Addresses


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> JobDir:
    """Return a folder in pyarrow's file system in memory, of which every `from_uri` makes an empty one."""
    fs, base = FileSystem.from_uri("mock://bucket/jobs/j-1")
    monkeypatch.setattr(JobDir, "_filesystem", lambda _self: (fs, base))
    return JobDir("mock://bucket/jobs/", "j-1")


def test_an_address_has_the_same_content_as_a_folder(remote):
    assert remote.path_of("model") == "mock://bucket/jobs/j-1/model"
    assert remote.list("checkpoints") == []
    assert not remote.exists("checkpoints")
    for name in ("b", "a"):
        with remote.new_dir(f"checkpoints/{name}") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "file").write_text(name)
    remote.recover()
    assert remote.list("checkpoints") == ["a", "b"]
    assert remote.read_bytes("checkpoints/b/inner/file") == b"b"
    with remote.open_dir("checkpoints/a") as folder:
        assert (folder / "inner" / "file").read_text() == "a"
    assert not folder.exists()
    remote.remove("checkpoints/a")
    assert remote.list("checkpoints") == ["b"]


def test_files_at_an_address_are_written_read_probed_and_removed(remote):
    with remote.new_dir("model"):
        pass  # the root exists, as a bucket does
    remote.write_json("model/metrics.json", {"a": 1})
    assert remote.read_json("model/metrics.json") == {"a": 1}
    remote.remove("model/metrics.json")
    assert not remote.exists("model/metrics.json")
    with pytest.raises(StorageError, match="mock://bucket/jobs/j-1/nothing"):
        remote.read_bytes("nothing")


def test_a_file_address_is_a_folder(tmp_path):
    job_dir = JobDir(f"file://{tmp_path}", "j-1")
    publish(job_dir, "model", "whole")
    assert (tmp_path / "j-1" / "model" / "file").read_text() == "whole"


def test_an_address_of_an_unknown_scheme_is_named_with_what_to_do():
    with pytest.raises(StorageError) as raised:
        JobDir("nosuch://bucket/jobs", "j-1").check_writable()
    assert raised.value.message.startswith("nosuch://bucket/jobs/j-1")
    assert "nosuch" in raised.value.message.split(": ", 1)[1]
    assert "BERTJOBS_STORAGE" in raised.value.hint


def test_local_folders_do_not_import_pyarrow(tmp_path):
    code = (
        "import sys; from bertjobs.storage import JobDir; "
        f"JobDir({str(tmp_path)!r}, 'j-1').check_writable(); assert 'pyarrow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_a_killed_trial_left_is_cleaned_up_at_its_depth(tmp_path):
    job_dir = JobDir(str(tmp_path), "j-1")
    trial = tmp_path / "j-1" / "trials" / "0003"
    (trial / "checkpoints" / ".new-0123abcd").mkdir(parents=True)
    (trial / "checkpoints" / ".old-step-1-0123abcd").mkdir()
    (trial / ".new-0123abcd").mkdir()
    (trial / "checkpoints" / "step-2").mkdir()
    job_dir.recover()
    found = sorted(str(path.relative_to(trial)) for path in trial.rglob("*"))
    assert found == ["checkpoints", "checkpoints/step-1", "checkpoints/step-2"]


def path_of(descriptor):
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def test_a_published_folder_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync

    def record(descriptor):
        synced.append((path_of(descriptor), (tmp_path / "j-1" / "model").exists()))
        sync(descriptor)

    monkeypatch.setattr("os.fsync", record)
    with JobDir(str(tmp_path), "j-1").new_dir("model") as folder:
        (folder / "weights").write_bytes(b"w")
    names = [path.name for path, _ in synced]
    assert names == ["weights", folder.name, "j-1"]
    assert [is_published for _, is_published in synced] == [False, False, True]


def test_a_written_file_has_its_name_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda d: synced.append(path_of(d).name))
    JobDir(str(tmp_path), "j-1").write_bytes("config.json", b"{}")
    assert len(synced) == 2
    assert synced[0].startswith(".config.json-")
    assert synced[1] == "j-1"
