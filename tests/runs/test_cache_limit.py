"""What a driver removes of its node's cache, and what it leaves."""

import os
import time
from pathlib import Path

from bertjobs.runs.cache_limit import (
    DAY_S,
    CacheEntry,
    limit_cache,
    limit_shared_corpora,
    note_use,
    removable,
)


def entry(name: str, *, unused_days: float, size_bytes: int = 10, may_be_in_use: bool = False) -> CacheEntry:
    return CacheEntry(
        path=Path(name), size_bytes=size_bytes, unused_s=unused_days * DAY_S, may_be_in_use=may_be_in_use
    )


def names(*entries: CacheEntry, keep_days: float | None = None, max_bytes: float | None = None) -> list[str]:
    keep_s = None if keep_days is None else keep_days * DAY_S
    return [str(e.path) for e in removable(entries, keep_s=keep_s, max_bytes=max_bytes)]


def test_without_limits_nothing_is_removed():
    assert names(entry("a", unused_days=1000)) == []


def test_what_was_not_used_for_long_is_removed():
    assert names(entry("a", unused_days=29), entry("b", unused_days=31), keep_days=30) == ["b"]


def test_beyond_the_limit_the_least_recently_used_goes_first():
    three = [entry("a", unused_days=2), entry("b", unused_days=9), entry("c", unused_days=5)]
    assert names(*three, max_bytes=30) == []
    assert names(*three, max_bytes=29) == ["b"]
    assert names(*three, max_bytes=10) == ["b", "c"]


def test_what_a_job_may_still_read_stays_whatever_the_limit():
    used = entry("a", unused_days=2, may_be_in_use=True)
    assert names(used, entry("b", unused_days=1), max_bytes=5, keep_days=1) == ["b"]


def test_old_tables_corpora_and_inputs_go_and_downloads_stay(tmp_path: Path):
    old, paths = time.time() - 40 * DAY_S, {}
    for name in ("encoded/old.arrow", "encoded/corpus-old/blocks.json", "inputs/old/f", "downloads/snli.zip"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        for aged in (path, path.parent):
            os.utime(aged, (old, old))
        paths[name] = path
    fresh = tmp_path / "encoded" / "fresh.arrow"
    fresh.write_text("x")
    os.utime(fresh, (old, old))
    note_use(fresh)
    gone = limit_cache(tmp_path, keep_s=30 * DAY_S, max_bytes=None)
    assert sorted(path.name for path in gone) == ["corpus-old", "old", "old.arrow"]
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["fresh.arrow", "snli.zip"]


def test_a_cache_that_does_not_exist_yet_has_nothing_to_remove(tmp_path: Path):
    assert limit_cache(tmp_path / "none", keep_s=1.0, max_bytes=1.0) == []


def test_of_shared_corpora_the_unused_ones_go_and_a_use_renews_the_age(tmp_path: Path):
    root, now_s = tmp_path / "encoded", time.time()
    for name, unused_days in (("corpus-old", 40), ("corpus-used", 40), ("corpus-new", 1), ("other", 90)):
        for file in ("blocks.json", "train-000000.arrow"):
            path = root / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 50)
            os.utime(path, (now_s - unused_days * DAY_S, now_s - unused_days * DAY_S))
    (root / "corpus-used" / "blocks.json").write_bytes(b"x" * 50)  # what another job does that uses it
    limits = {"manifest": "blocks.json", "now_s": now_s}
    assert limit_shared_corpora(str(root), keep_s=None, max_bytes=None, **limits) == []
    assert limit_shared_corpora(str(root), keep_s=None, max_bytes=250, **limits) == ["corpus-old"]
    assert sorted(path.name for path in root.iterdir()) == ["corpus-new", "corpus-used", "other"]
    late = limits | {"now_s": now_s + 35 * DAY_S}
    assert limit_shared_corpora(str(root), keep_s=35.5 * DAY_S, max_bytes=None, **late) == ["corpus-new"]
    assert limit_shared_corpora(str(tmp_path / "none"), keep_s=1.0, max_bytes=1, **late) == []
