"""Where splits are looked for: folders, archives, the cache."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjobs.text.datasets.cola import COLA
from bertjobs.text.datasets.read_split import Split
from bertjobs.text.datasets.sample import write_sample
from bertjobs.text.datasets.snli import SNLI
from bertjobs.text.datasets.splits import has_split

Read = Callable[..., Split]


def test_colas_dev_split_is_the_in_domain_one(tmp_path: Path, read: Read) -> None:
    write_sample(tmp_path)
    named = read(COLA, tmp_path / "cola_public", split="in_domain_dev").table
    assert read(COLA, tmp_path / "cola_public", split="dev").table.equals(named)
    assert not read(COLA, tmp_path / "cola_public", split="out_of_domain_dev").table.equals(named)


@pytest.mark.parametrize("folder", ["", "cola_public", "cola_public/raw"])
def test_data_is_found_from_a_parent_folder(tmp_path: Path, read: Read, folder: str) -> None:
    write_sample(tmp_path)
    assert read(COLA, tmp_path / folder).table.num_rows == 600
    snli = tmp_path if folder == "" else tmp_path / "snli_1.0"
    assert read(SNLI, snli).table.num_rows == 600


def test_the_published_zip_is_read_in_place_and_from_the_cache(tmp_path: Path, read: Read) -> None:
    write_sample(tmp_path / "sample")
    archive = tmp_path / "cache" / "downloads" / "snli_1.0.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("__MACOSX/snli_1.0/._snli_1.0_train.jsonl", b"\x00\x05\x16")
        for file in sorted((tmp_path / "sample" / "snli_1.0").iterdir()):
            z.write(file, f"snli_1.0/{file.name}")
    from_folder = read(SNLI, tmp_path / "sample").table
    assert read(SNLI, archive).table.equals(from_folder)
    assert read(SNLI, None).table.equals(from_folder)
    assert read(SNLI, None, split="test").table.num_rows == 150


def test_existing_splits_are_found_without_reading_them(tmp_path: Path) -> None:
    write_sample(tmp_path)
    (tmp_path / "snli_1.0" / "snli_1.0_dev.jsonl").unlink()
    there = [s for s in ("train", "dev", "test") if has_split(SNLI, str(tmp_path), split=s, cache=tmp_path)]
    assert there == ["train", "test"]


def test_a_single_file_is_the_training_split_and_no_other(snli_file: Path) -> None:
    there = [s for s in ("train", "dev", "test") if has_split(SNLI, str(snli_file), split=s, cache=snli_file)]
    assert there == ["train"]
