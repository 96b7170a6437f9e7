"""Sinks of metrics: with a tracker of the test for what may go wrong, and with the real libraries where they
are installed (`pip install bertjobs[mlflow,wandb,trackio]`), on a local store."""

import importlib.util
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bertjobs.runs import trackers
from bertjobs.runs.trackers import TrackedRun, tracked
from bertjobs.storage import JobDir
from waiting import wait_until

CONFIG = {"optim": {"lr": 3e-5}, "task": {"name": "snli"}}


class FakeTracker:
    """Keeps what it is told; each attempt of the test makes a new one over the same run."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.fails_at = fails_at
        self.started: tuple[Any, ...] = ()
        self.state = ""

    def start(
        self, job_id: str, config: Mapping[str, Any], *, run_id: str | None, folder: Path | None
    ) -> str:
        self.started = (job_id, dict(config), run_id)
        return run_id or "run-1"

    def log(self, points: list[tuple[int, dict[str, float]]]) -> None:
        if any(step == self.fails_at for step, _ in points):
            raise ConnectionError("no route to host")
        self.points += points

    def end(self, state: str) -> None:
        self.state = state


@pytest.fixture
def job_dir(tmp_path: Path) -> JobDir:
    return JobDir(str(tmp_path / "jobs"), "j-1t4k7wx3m")


def attempt(
    monkeypatch: pytest.MonkeyPatch, job_dir: JobDir, tracker: Any, steps: range, *, error: str = ""
) -> Any:
    """Play one attempt at a job that reports these steps."""
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", lambda: tracker)  # type: ignore[arg-type]
    with tracked("mlflow", config=CONFIG, job_dir=job_dir, is_first=True) as run:
        assert run is not None
        for step in steps:
            run.log(step, {"train/loss": 1 / step, "train/is_best": True, "train/note": "x"})
        if error:
            raise RuntimeError(error)
    return tracker


def test_steps_configuration_and_end_reach_the_tracker(
    monkeypatch: pytest.MonkeyPatch, job_dir: JobDir
) -> None:
    tracker = attempt(monkeypatch, job_dir, FakeTracker(), range(1, 4))
    assert tracker.started == ("j-1t4k7wx3m", {"optim.lr": 3e-5, "task.name": "snli"}, None)
    assert tracker.points == [(1, {"train/loss": 1.0}), (2, {"train/loss": 0.5}), (3, {"train/loss": 1 / 3})]
    assert tracker.state == "finished"


def test_a_resumed_attempt_continues_the_run_and_repeats_no_step(
    monkeypatch: pytest.MonkeyPatch, job_dir: JobDir
) -> None:
    first = FakeTracker()
    with pytest.raises(RuntimeError, match="killed"):
        attempt(monkeypatch, job_dir, first, range(1, 15), error="killed")
    assert first.state == "failed"
    second = attempt(monkeypatch, job_dir, FakeTracker(), range(11, 21))  # its checkpoint was at step 10
    assert second.started[2] == "run-1"
    assert [step for step, _ in first.points + second.points] == list(range(1, 21))


def test_an_evaluation_is_kept_beside_its_training_step(
    monkeypatch: pytest.MonkeyPatch, job_dir: JobDir
) -> None:
    monkeypatch.setattr(trackers, "_FLUSH_S", 0.0)
    tracker = FakeTracker()
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", lambda: tracker)  # type: ignore[arg-type,return-value]
    with tracked("mlflow", config=CONFIG, job_dir=job_dir, is_first=True) as run:
        assert run is not None
        run.log(5, {"train/loss": 0.5})
        run.log(5, {"dev/accuracy": 0.75})
        run.end("stopped")
    assert tracker.points == [(5, {"train/loss": 0.5}), (5, {"dev/accuracy": 0.75})]
    assert tracker.state == "stopped"  # what the block has said counts


def test_a_tracker_that_fails_is_warned_of_once_and_the_job_goes_on(
    monkeypatch: pytest.MonkeyPatch, job_dir: JobDir, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        attempt(monkeypatch, job_dir, FakeTracker(fails_at=2), range(1, 300))
    warnings = [record.message for record in caplog.records if record.name == "bertjobs.runs.trackers"]
    assert warnings == ["--report-to mlflow is given up, the job goes on: ConnectionError: no route to host"]


def test_a_tracker_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, job_dir: JobDir, caplog: pytest.LogCaptureFixture
) -> None:
    class Missing(FakeTracker):
        def start(self, *_: Any, **__: Any) -> str:
            raise ModuleNotFoundError("No module named 'mlflow'")

    attempt(monkeypatch, job_dir, Missing(), range(1, 3))
    (record,) = (r for r in caplog.records if r.name == "bertjobs.runs.trackers")
    assert "`pip install bertjobs[mlflow]`" in record.message


def test_a_tracker_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch, job_dir: JobDir, caplog: pytest.LogCaptureFixture
) -> None:
    is_over = threading.Event()

    class Hanging(FakeTracker):
        def log(self, points: Any) -> None:
            is_over.wait(60)

    monkeypatch.setattr(trackers, "END_PATIENCE_S", 0.05)
    attempt(monkeypatch, job_dir, Hanging(), range(1, 3))
    is_over.set()
    assert "it did not end its run within" in caplog.text


def test_other_ranks_and_jobs_without_a_tracker_report_to_nobody(job_dir: JobDir) -> None:
    for name, is_first in (("none", True), ("mlflow", False)):
        with tracked(name, config=CONFIG, job_dir=job_dir, is_first=is_first) as run:  # type: ignore[arg-type]
            assert run is None


def real(name: str) -> Any:
    is_here = importlib.util.find_spec(name) is not None
    reason = f"{name} is not installed: pip install bertjobs[{name}]"
    return pytest.param(name, marks=pytest.mark.skipif(not is_here, reason=reason))


@pytest.mark.filterwarnings("default")  # theirs
@pytest.mark.parametrize("name", [real("mlflow"), real("wandb"), real("trackio")])
def test_a_real_tracker_has_every_step_once_after_a_resume(
    name: Any, job_dir: JobDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "TRACKIO_DIR"):
        monkeypatch.delenv(variable, raising=False)
    for number, steps in enumerate((range(1, 15), range(11, 21)), start=1):
        with tracked(name, config=CONFIG, job_dir=job_dir, is_first=True) as run:
            assert isinstance(run, TrackedRun)
            for step in steps:
                run.log(step, {"train/loss": 1 / step})
            if number == 2:
                run.log(20, {"dev/accuracy": 0.75})
    assert "is given up" not in caplog.text
    folder = Path(job_dir.path_of("")).parent
    # W&B's own process writes the last records of a run after `finish` has returned.
    wait_until(lambda: READ[name](folder)[0], lambda steps: len(steps) >= 20)
    assert READ[name](folder) == (list(range(1, 21)), True)


def read_mlflow(folder: Path) -> tuple[list[int], bool]:
    from mlflow import MlflowClient

    client = MlflowClient((folder / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("bertjobs")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["dev/accuracy"] == 0.75
    history = client.get_metric_history(run.info.run_id, "train/loss")
    return sorted(m.step for m in history), run.data.params["optim.lr"] == "3e-05"


def read_wandb(folder: Path) -> tuple[list[int], bool]:
    from wandb.proto import wandb_internal_pb2

    steps, config = [], {}
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for data in wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            items = {(i.key or "/".join(i.nested_key)): i.value_json for i in record.history.item}
            steps += [int(items["_step"])] if "train/loss" in items else []
            config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
    return sorted(steps), config.get("optim.lr") == 3e-5


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Read the records of an offline run. Source: LevelDB, doc/log_format.md, after a header of 7 bytes."""
    at, parts, full, last = 7, b"", 1, 4
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left  # the end of a block that is too short for a header
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (full, last):
            yield parts
            parts = b""


def read_trackio(folder: Path) -> tuple[list[int], bool]:
    import sqlite3

    (file,) = (folder / "trackio").glob("bertjobs*.db")
    with sqlite3.connect(file) as connection:
        rows = connection.execute("SELECT step, metrics FROM metrics").fetchall()
        configs = connection.execute("SELECT config FROM configs").fetchall()
    steps = sorted(step for step, metrics in rows if "train/loss" in json.loads(metrics))
    return steps, any(json.loads(config).get("optim.lr") == 3e-5 for (config,) in configs)


READ = {"mlflow": read_mlflow, "wandb": read_wandb, "trackio": read_trackio}
