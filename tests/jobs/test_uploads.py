"""Uploads that were interrupted, or that nobody has used for long, are found; those in use are left."""

import os
from pathlib import Path

from bertjobs.jobs.retention import CleanupThread, InputLimits
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.uploads import MANIFEST, Upload, list_uploads, removable
from bertjobs.storage import JobDir, StorageRoots

DAY_S = 24 * 3600.0


def upload(key: str, *, age_days: float, is_complete: bool = True, size_bytes: int = 10) -> Upload:
    return Upload(key=key, is_complete=is_complete, age_s=age_days * DAY_S, size_bytes=size_bytes)


def keys(*found: Upload, used: tuple[str, ...] = (), keep_days: float | None = None, max_bytes=None):
    keep_s = None if keep_days is None else keep_days * DAY_S
    return [u.key for u in removable(found, used=used, keep_s=keep_s, max_bytes=max_bytes)]


def test_an_interrupted_upload_goes_after_a_day_and_one_under_way_stays():
    old, new = (upload(key, age_days=age, is_complete=False) for key, age in (("old", 1.1), ("new", 0.9)))
    assert keys(old, new) == ["old"]


def test_without_limits_whole_uploads_stay():
    assert keys(upload("a", age_days=1000)) == []


def test_what_was_not_used_for_long_goes_unless_a_job_still_needs_it():
    found = (upload("a", age_days=31), upload("b", age_days=40), upload("c", age_days=2))
    assert keys(*found, keep_days=30) == ["b", "a"]
    assert keys(*found, keep_days=30, used=("b",)) == ["a"]


def test_the_oldest_go_until_the_rest_is_within_the_limit():
    found = [upload(key, age_days=age) for key, age in (("a", 1), ("b", 3), ("c", 2))]
    assert keys(*found, max_bytes=30) == []
    assert keys(*found, max_bytes=29) == ["b"]
    assert keys(*found, max_bytes=10) == ["b", "c"]
    assert keys(*found, max_bytes=5, used=("b",)) == ["c", "a"]


def test_uploads_are_listed_with_size_and_age(tmp_path: Path):
    folder = tmp_path / "inputs" / "whole"
    folder.mkdir(parents=True)
    (folder / "data.csv").write_bytes(b"123")
    (folder / MANIFEST).write_bytes(b"{}")
    (tmp_path / "inputs" / "half").mkdir()
    (tmp_path / "inputs" / "half" / "data.csv").write_bytes(b"1")
    for path, at_s in ((folder / "data.csv", 100), (folder / MANIFEST, 200)):
        os.utime(path, (at_s, at_s))
    os.utime(tmp_path / "inputs" / "half" / "data.csv", (50, 50))
    found = {u.key: u for u in list_uploads(JobDir(str(tmp_path), "inputs"), now_s=300)}
    assert found == {
        "whole": Upload(key="whole", is_complete=True, age_s=100.0, size_bytes=5),
        "half": Upload(key="half", is_complete=False, age_s=250.0, size_bytes=1),
    }


def test_the_dispatcher_removes_half_uploads_and_keeps_what_a_waiting_job_needs(
    connection, store, tmp_path, submit
):
    storage = tmp_path / "storage"
    half, used, unused = ("a" * 32, "b" * 32, "c" * 32)
    for key in (half, used, unused):
        folder = storage / "inputs" / key
        folder.mkdir(parents=True)
        (folder / "dev.csv").write_text("x")
        if key != half:
            (folder / MANIFEST).write_text("{}")
        for path in folder.iterdir():
            os.utime(path, (0, 0))
    resources = {"gpus": 0, "workers": None, "cpus_per_worker": None}
    config = {"data": {"path": f"{storage}/inputs/{used}/dev.csv"}}
    store.submit("finetune", config, storage=str(storage), resources=resources, user="ada", hold=True)
    dispatch = DispatchStore(connection, owner="test", lease_s=10.0)
    assert dispatch.lead()
    limits = InputLimits(storage=str(storage), keep_s=DAY_S, max_bytes=None)
    CleanupThread(dispatch, roots=StorageRoots(None), inputs=limits).clean()
    assert sorted(path.name for path in (storage / "inputs").iterdir()) == [used]
