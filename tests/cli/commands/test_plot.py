"""`bertjobs plot`: several jobs over one another, pictures of predictions, TensorBoard."""

import importlib.util
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from bertjobs.cli.commands import tensorboard
from bertjobs.config import load_config
from bertjobs.jobs.job import Job, State
from bertjobs.jobs.store.job_store import JobStore

Run = Callable[..., Result]
pytestmark = pytest.mark.redis


@pytest.fixture
def train(store: JobStore, home: Path, drive: Callable[[str], Any]) -> Callable[..., Job]:
    """Return a fine-tuning of two steps that has succeeded: `train(seed=1)`."""

    def train(*, seed: int, kind: str = "finetune", **results: Any) -> Job:
        config = load_config(kind).model_dump(mode="json")
        config["train"]["seed"] = seed
        job, _ = store.submit(kind, config, storage=str(home / "jobs"), resources={}, name=f"seed {seed}")
        driver = drive(job.id)
        driver.step(1, loss=1.0)
        driver.step(2, loss=0.5)
        driver.end(State.SUCCEEDED, **results)
        return store.get(job.id)

    return train


def test_several_jobs_are_drawn_into_one_picture(train: Callable[..., Job], run: Run, tmp_path: Path) -> None:
    jobs = [train(seed=1).id, train(seed=2).id]
    output = tmp_path / "both.png"
    result = run("plot", *jobs, "--output", str(output), "--json")
    assert json.loads(result.stdout) == {"ids": jobs, "plots": [str(output)]}
    assert output.read_bytes().startswith(b"\x89PNG")
    assert run("plot", *jobs, "--mean", "-o", str(output)).exit_code == 0


def test_what_cannot_be_drawn_together_is_refused(train: Callable[..., Job], run: Run) -> None:
    job, corpus = train(seed=1).id, train(seed=1, kind="pretrain").id
    for words, message in (
        (("plot", job, corpus), "give the picture's --output FILE"),
        (("plot", job, "--mean"), "--mean needs several jobs"),
        (("plot", job, corpus, "-o", "x.png"), "Jobs of the kinds finetune, pretrain cannot be drawn"),
        (("plot", job, "--tensorboard", "--json"), "--tensorboard excludes"),
    ):
        result = run(*words)
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_the_predictions_of_a_job_are_drawn_into_its_folder(
    train: Callable[..., Job], run: Run, home: Path
) -> None:
    job = train(seed=1, artifacts={"predictions": "/elsewhere/predictions.parquet"})
    labels = ["entailment", "neutral"]
    columns = {"text_a": ["a", "b c"], "label": labels, "prediction": labels[::-1]}
    columns |= {f"p_{name}": [0.2, 0.3] for name in ("entailment", "neutral", "contradiction")}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    job.job_dir.write_bytes("predictions.parquet", buffer.getvalue())
    result = run("plot", job.id)
    names = ["curves", "confusion", "calibration", "accuracy-by-length"]
    assert result.stdout.splitlines() == [str(home / "jobs" / job.id / "plots" / f"{n}.png") for n in names]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in result.stdout.splitlines())


def test_tensorboard_gets_the_event_files_by_job(
    train: Callable[..., Job], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = train(seed=1), train(seed=2)
    for job in (first, second):
        job.job_dir.write_bytes("tensorboard/events.out.tfevents.1", b"x")
    seen: dict[str, list[str]] = {}

    def call(argv: list[str]) -> int:
        folder = Path(argv[-1])
        seen.update({path.name: [file.name for file in path.iterdir()] for path in folder.iterdir()})
        return 0

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(subprocess, "call", call)
    assert run("plot", "--tensorboard", first.id, second.id).exit_code == 0
    events = ["events.out.tfevents.1"]
    assert seen == {f"{first.id} seed 1": events, f"{second.id} seed 2": events}


def test_tensorboard_that_is_missing_or_has_nothing_to_show_says_so(
    train: Callable[..., Job], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = train(seed=1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run("plot", "--tensorboard", job.id)
    assert (result.exit_code, "`pip install tensorboard`" in result.stderr) == (2, True)
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: object())
    result = run("plot", "--tensorboard", job.id)
    assert result.exit_code == 2
    assert "has no event files" in result.stderr
