"""The files that a run leaves for others to read."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.config.sections import TextSection
from bertjobs.errors import ModelError
from bertjobs.runs.artefacts import Artefact, Predictions, read_artefact, write_predictions
from bertjobs.storage import JobDir
from bertjobs.text.datasets.cola import COLA


def test_parts_of_two_ranks_are_joined_with_texts_and_labels(tmp_path):
    job_dir = JobDir(str(tmp_path), "j")
    table = pa.table(
        {
            "text_a": ["one", "two", "three"],
            "label": pa.array([1, -1, 0], pa.int32()),
            "index": pa.array([0, 1, 2], pa.int64()),
        }
    )
    first, second = Predictions(3, num_outputs=2), Predictions(3, num_outputs=2)
    first.add(np.array([2, 0]), np.array([[0.9, 0.1], [0.25, 0.75]], dtype=np.float32))
    second.add(np.array([1]), np.array([[0.5, 0.5]], dtype=np.float32))
    first.write(job_dir, rank=0)
    second.write(job_dir, rank=1)
    written = pq.read_table(
        write_predictions(job_dir, table, task=COLA, num_ranks=2)["predictions"]
    ).to_pydict()
    assert written["text_a"] == ["one", "two", "three"]
    assert written["label"] == ["acceptable", None, "unacceptable"]
    assert written["prediction"] == ["acceptable", "unacceptable", "unacceptable"]
    assert written["p_acceptable"] == [0.75, 0.5, pytest.approx(0.1)]
    assert job_dir.list(".parts-0") == []


def test_an_artefact_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path):
    artefact = Artefact(task=COLA, text=TextSection(), trained_by="j-1")
    assert read_artefact(tmp_path) is None
    artefact.write(tmp_path)
    assert read_artefact(tmp_path) == artefact
    content = json.loads((tmp_path / "bertjobs.json").read_text())
    del content["task"]["labels"]
    (tmp_path / "bertjobs.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"bertjobs\.json is damaged"):
        read_artefact(tmp_path)
