"""The encoded table, its views, its file, and the name it is cached under."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import StorageError
from bertjobs.text.datasets.cola import COLA
from bertjobs.text.datasets.snli import SNLI
from bertjobs.text.encoding import EncodedTable, cache_key, encode_table, read_arrow, write_arrow
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.vocabulary import train_wordpiece

PREMISES = ["A man is running.", "Two dogs sleep in a park.", "", "A man is running."]
HYPOTHESES = ["A person moves.", "", "Nobody.", "A man is running."]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece(PREMISES + HYPOTHESES, vocab_size=200)


def split_table(*, is_pair: bool = True) -> pa.Table:
    columns = {"text_a": PREMISES, "text_b": HYPOTHESES} if is_pair else {"text_a": PREMISES}
    return pa.table(columns).append_column("label", pa.array([0, 2, -1, 1], pa.int32())).append_column(
        "index", pa.array([0, 1, 2, 3], pa.int64())
    )  # fmt: skip


@pytest.mark.parametrize("is_pair", [True, False])
def test_each_text_becomes_its_ids(tokenizer: Tokenizer, is_pair: bool) -> None:
    encoded = encode_table(split_table(is_pair=is_pair), tokenizer)
    assert encoded["a"].type == pa.list_(pa.uint16())
    assert encoded["a"].to_pylist() == [tokenizer.encode(text) for text in PREMISES]
    assert encoded["label"].to_pylist() == [0, 2, -1, 1]
    assert encoded["index"].to_pylist() == [0, 1, 2, 3]
    assert encoded.column_names == (["a", "b"] if is_pair else ["a"]) + ["label", "index"]
    if is_pair:
        assert encoded["b"].to_pylist() == [tokenizer.encode(text) for text in HYPOTHESES]


def test_blocks_of_a_table_encode_to_blocks_of_its_encoding(tokenizer: Tokenizer) -> None:
    whole = encode_table(split_table(), tokenizer)
    blocks = [encode_table(split_table().slice(i, 1), tokenizer) for i in range(4)]
    assert pa.concat_tables(blocks).combine_chunks().equals(whole.combine_chunks())
    assert encode_table(split_table().slice(0, 0), tokenizer).num_rows == 0


def test_large_strings_encode_like_others(tokenizer: Tokenizer) -> None:
    """Ray Data hands blocks on with types of its own."""
    table = split_table()
    large = table.set_column(0, "text_a", table["text_a"].cast(pa.large_string()))
    assert encode_table(large, tokenizer).equals(encode_table(table, tokenizer))


def test_the_views_copy_nothing(tokenizer: Tokenizer) -> None:
    encoded = encode_table(split_table(), tokenizer).combine_chunks()
    view = EncodedTable.from_arrow(encoded)
    values = encoded["b"].chunk(0).values
    assert view.b_ids is not None
    assert view.b_ids.ctypes.data == values.buffers()[1].address
    assert not view.b_ids.flags.writeable
    assert not view.b_ids.flags.owndata


def rows_of(table: EncodedTable) -> list[tuple[list[int], list[int] | None, int, int]]:
    found = []
    for i in range(table.num_rows):
        a = table.a_ids[table.a_offsets[i] : table.a_offsets[i + 1]].tolist()
        b = None
        if table.b_ids is not None and table.b_offsets is not None:
            b = table.b_ids[table.b_offsets[i] : table.b_offsets[i + 1]].tolist()
        found.append((a, b, int(table.labels[i]), int(table.indices[i])))
    return found


@pytest.mark.parametrize("is_pair", [True, False])
def test_a_slice_is_viewed_in_its_place(tokenizer: Tokenizer, is_pair: bool) -> None:
    encoded = encode_table(split_table(is_pair=is_pair), tokenizer).combine_chunks()
    whole = EncodedTable.from_arrow(encoded)
    part = EncodedTable.from_arrow(encoded.slice(1, 2))
    assert rows_of(part) == rows_of(whole)[1:3]
    assert part.lengths_a.tolist() == whole.lengths_a.tolist()[1:3]
    assert (part.lengths_b is not None) == is_pair


@given(rows=st.lists(st.integers(0, 3), max_size=10))
@pytest.mark.parametrize("is_pair", [True, False])
def test_selecting_rows_copies_them_in_their_order(
    tokenizer: Tokenizer, is_pair: bool, rows: list[int]
) -> None:
    table = EncodedTable.from_arrow(encode_table(split_table(is_pair=is_pair), tokenizer))
    selected = table.select(np.array(rows, dtype=np.int64))
    assert rows_of(selected) == [rows_of(table)[i] for i in rows]


def test_a_table_in_chunks_is_viewed_as_one(tokenizer: Tokenizer) -> None:
    encoded = encode_table(split_table(), tokenizer)
    chunked = pa.concat_tables([encoded.slice(0, 1), encoded.slice(1)])
    assert rows_of(EncodedTable.from_arrow(chunked)) == rows_of(EncodedTable.from_arrow(encoded))


def test_a_file_gives_the_table_back_mapped(tokenizer: Tokenizer, tmp_path: Path) -> None:
    encoded = encode_table(split_table(), tokenizer)
    path = tmp_path / "deep" / "x.arrow"
    write_arrow(pa.concat_tables([encoded.slice(0, 1), encoded.slice(1)]), path)
    before = pa.total_allocated_bytes()
    mapped = read_arrow(path)
    view = EncodedTable.from_arrow(mapped)
    assert pa.total_allocated_bytes() == before
    assert rows_of(view) == rows_of(EncodedTable.from_arrow(encoded))
    assert [p.name for p in path.parent.iterdir()] == ["x.arrow"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_damaged_file_says_what_to_do(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    write_arrow(encode_table(split_table(), tokenizer), path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError) as e:
        read_arrow(path)
    assert str(e.value).startswith(f"The encoded data at {path} cannot be read: ")
    assert str(e.value).endswith("Remove it, and the data will be encoded again.")


def test_a_folder_that_cannot_be_written_says_what_to_do(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as e:
        write_arrow(encode_table(split_table(), tokenizer), tmp_path / "file" / "x.arrow")
    assert str(e.value).startswith(f"The encoded data cannot be written to {tmp_path}/file/x.arrow: ")
    assert str(e.value).endswith("Free room there, or set BERTJOBS_CACHE to another place.")


def test_a_full_disk_says_what_to_do_and_leaves_nothing(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/dev/full` takes the part of a file on a disk without room."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    real = pa.OSFile
    monkeypatch.setattr(pa, "OSFile", lambda _path, mode: real("/dev/full", mode))
    with pytest.raises(StorageError, match="No space left on device") as e:
        write_arrow(encode_table(split_table(), tokenizer), tmp_path / "x.arrow")
    assert e.value.hint == "Free room there, or set BERTJOBS_CACHE to another place."
    assert list(tmp_path.iterdir()) == []


def test_the_cache_key_follows_what_decides_the_rows(tokenizer: Tokenizer, tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("same")
    two.write_text("same")
    key = cache_key([one], SNLI, tokenizer, split="train")
    assert cache_key([two], SNLI, tokenizer, split="train") == key
    others = [
        cache_key([one], SNLI, tokenizer, split="dev"),
        cache_key([one], COLA, tokenizer, split="train"),
        cache_key([one], SNLI, train_wordpiece(PREMISES, vocab_size=150), split="train"),
        cache_key([one], SNLI, tokenizer, split="train", on_bad_row="skip"),
        cache_key([one], SNLI, tokenizer, split="train", limit=10),
        cache_key([one], SNLI, tokenizer, split="train", extra="held out 0.1"),
        cache_key([one, two], SNLI, tokenizer, split="train"),
    ]
    two.write_text("other")
    others.append(cache_key([two], SNLI, tokenizer, split="train"))
    assert len({key, *others}) == 1 + len(others)
    assert len(key) == 32
