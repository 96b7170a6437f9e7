"""The files that the vectors of a few texts are written to."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.errors import ConfigError, StorageError
from bertjobs.runs.encode.vector_files import check_vector_file, to_json, write_vector_file

FLYING, DRIVER = "a crane is flying", "a crane driver came|he just left"


def test_vectors_are_written_as_a_matrix_a_table_or_a_document(embed, tmp_path):
    found = embed(FLYING, DRIVER, words=["crane"])
    matrix = np.stack([v.vector for one in found for v in one.vectors])
    for suffix in (".npy", ".parquet", ".json"):
        check_vector_file(tmp_path / f"x{suffix}")
        write_vector_file(tmp_path / f"x{suffix}", found)
    assert np.array_equal(np.load(tmp_path / "x.npy"), matrix)
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["vector"].type == pa.list_(pa.float32(), 16)
    assert table["token"].to_pylist() == ["[CLS]", "crane", "[CLS]", "crane"]
    assert table["number"].to_pylist() == [0, 0, 1, 1]
    document = json.loads((tmp_path / "x.json").read_text())
    assert document == json.loads(json.dumps(to_json(found)))
    assert document["dim"] == 16


def test_a_file_that_cannot_be_written_is_refused(embed, tmp_path):
    with pytest.raises(ConfigError, match=r"\.csv is not a known format") as caught:
        check_vector_file(tmp_path / "x.csv")
    assert ".npy, .parquet, .json" in caught.value.hint
    with pytest.raises(StorageError, match="its folder does not exist"):
        check_vector_file(tmp_path / "none" / "x.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(StorageError, match="it is a folder"):
        check_vector_file(tmp_path / "folder.npy")
    with pytest.raises(StorageError, match="File name too long"):
        write_vector_file(tmp_path / f"{'x' * 250}.npy", embed(FLYING))
