"""`bertjobs inspect`: which predictions it reads, what it prints, and how it refuses."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from bertjobs.jobs.job import State
from bertjobs.jobs.store.job_store import JobStore

Run = Callable[..., Result]
Drive = Callable[[str], Any]


def predictions(labels: list[str]) -> bytes:
    """Rows that are all predicted to be `good`, with a probability of 0.75."""
    table = pa.table(
        {
            "index": range(len(labels)),
            "text_a": [f"text {i}" for i in range(len(labels))],
            "label": labels,
            "prediction": ["good"] * len(labels),
            "p_bad": pa.array([0.25] * len(labels), pa.float32()),
            "p_good": pa.array([0.75] * len(labels), pa.float32()),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@pytest.fixture
def ended(store: JobStore, drive: Drive, home: Path) -> str:
    """An evaluation of two splits that has succeeded; its folder was moved after that."""
    job, _ = store.submit("evaluate", {}, storage=str(home / "jobs"), resources={}, user="ada")
    paths = {}
    for split, name, labels in (
        ("dev", "outputs-a1/predictions.parquet", ["good", "bad", "bad"]),
        ("hard", "outputs-a1/predictions-hard.parquet", ["good", "good"]),
    ):
        job.job_dir.write_bytes(name, predictions(labels))
        paths[split] = f"/elsewhere/{job.id}/{name}"
    artifacts = {"predictions": paths["dev"], "predictions_of": paths}
    drive(job.id).end(State.SUCCEEDED, artifacts=artifacts)
    return job.id


def test_a_job_is_inspected_on_its_first_split_or_the_one_that_is_named(run: Run, ended: str) -> None:
    document = json.loads(run("inspect", ended, "--json", "--worst", "1").stdout)
    assert (document["job"], document["rows"], document["error"]) == (ended, 3, pytest.approx(2 / 3))
    assert [row["index"] for row in document["worst"]] == [1]
    hard = json.loads(run("inspect", ended, "--json", "--split", "hard").stdout)
    assert (hard["rows"], hard["error"]) == (2, 0.0)


def test_the_text_shows_classes_lengths_confusions_and_the_worst_rows(run: Run, ended: str) -> None:
    result = run("inspect", ended)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == f"{ended}: 3 rows, mean error ratio 0.6667, mean loss 1.02"
    for line in ("bad 2 1.0000 1.3863", "good 1 0.0000 0.2877", "2 3 0.6667 1.0201", "bad good 2"):
        assert line in lines
    assert lines.index("1.386 row 1: label bad, predicted good") < lines.index("text_a text 2")


def test_a_folder_of_a_run_needs_no_queue(run: Run, tmp_path: Path) -> None:
    (tmp_path / "predictions.parquet").write_bytes(predictions(["bad"]))
    assert json.loads(run("inspect", str(tmp_path), "--json").stdout)["error"] == 1.0
    refused = run("inspect", str(tmp_path), "--split", "hard")
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: {tmp_path} has no predictions-hard.parquet\n")


def test_a_job_without_predictions_or_without_the_split_is_refused(
    run: Run, store: JobStore, home: Path, ended: str
) -> None:
    waiting, _ = store.submit("finetune", {}, storage=str(home / "jobs"), resources={}, user="ada")
    result = run("inspect", waiting.id)
    assert result.exit_code == 2
    assert f"error: {waiting.id} (finetune, QUEUED) has no predictions of a split\n" in result.stderr
    result = run("inspect", ended, "--split", "tset")
    assert result.exit_code == 2
    assert f"error: --split tset: {ended} has predictions of dev, hard\n" in result.stderr
    assert run("inspect", "j-none").exit_code == 2
