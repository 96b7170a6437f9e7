"""Sinks of metrics: a run in MLflow, Weights & Biases or Trackio beside the job's own files, on rank 0.

Nothing here may harm the job: values are handed over in a thread, and a tracker that fails or hangs is given
up with one warning in the log. Where each tracker keeps its runs is its own configuration, in the environment
of the nodes (`MLFLOW_TRACKING_URI`, `WANDB_API_KEY`, ...); without it they are local, beside the jobs.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from bertjobs.config.difference import flat_values
from bertjobs.config.sections import TrackerName
from bertjobs.storage import JobDir

log = logging.getLogger(__name__)

RECORD = "tracker.json"
"""In the job's folder: the tracker, its run, and the last step that was handed over."""
PROJECT = "bertjobs"
END_PATIENCE_S = 30.0
"""How long the end of a job waits for its tracker."""
_FLUSH_S = 2.0
_MAX_WAITING = 10_000
"""Points that wait for a tracker; beyond, new ones are dropped: memory is the job's."""

EndState = Literal["finished", "failed", "stopped"]
Point = tuple[int, dict[str, float]]


class Tracker(Protocol):
    """One library."""

    def start(
        self, job_id: str, config: Mapping[str, Any], *, run_id: str | None, folder: Path | None
    ) -> str:
        """Begin a run, or continue `run_id`; return its id. folder: where local runs belong, if anywhere."""

    def log(self, points: list[Point]) -> None:
        """Add metrics by step, in order."""

    def end(self, state: EndState) -> None:
        """End the run."""


class Mlflow:
    """MLflow, through its client, which has no state that threads share."""

    _STATUS: Mapping[EndState, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}

    def start(
        self, job_id: str, config: Mapping[str, Any], *, run_id: str | None, folder: Path | None
    ) -> str:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        is_local = folder is not None and "MLFLOW_TRACKING_URI" not in os.environ
        if is_local:
            # Its plain files have had a successor for a while; they need no database library.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = MlflowClient((folder / "mlruns").as_uri() if is_local and folder else None)
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            self._run_id = run_id
            return run_id
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        self._run_id = self._client.create_run(experiment, run_name=job_id).info.run_id
        params = [Param(name, str(value)[:500]) for name, value in config.items()]
        for start in range(0, len(params), 100):  # the most that a request takes
            self._client.log_batch(self._run_id, params=params[start : start + 100])
        return self._run_id

    def log(self, points: list[Point]) -> None:
        import time

        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, v, now_ms, step) for step, values in points for name, v in values.items()]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + 1000])

    def end(self, state: EndState) -> None:
        self._client.set_terminated(self._run_id, status=self._STATUS[state])


class Wandb:
    """Weights & Biases; offline where there is no key."""

    def start(
        self, job_id: str, config: Mapping[str, Any], *, run_id: str | None, folder: Path | None
    ) -> str:
        import wandb

        has_key = "WANDB_API_KEY" in os.environ or "WANDB_MODE" in os.environ
        is_local = folder is not None and "WANDB_DIR" not in os.environ
        if is_local and folder:
            folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id or job_id,
            name=job_id,
            config=dict(config),
            resume="allow",
            mode=None if has_key else "offline",
            dir=str(folder) if is_local else None,
            settings=wandb.Settings(console="off", disable_git=True, disable_code=True, silent=True),
        )
        return str(self._run.id)

    def log(self, points: list[Point]) -> None:
        for step, values in points:
            self._run.log(values, step=step)

    def end(self, state: EndState) -> None:
        self._run.summary["state"] = state
        self._run.finish(exit_code=1 if state == "failed" else 0)


class Trackio:
    """Trackio, in its local database."""

    def start(
        self, job_id: str, config: Mapping[str, Any], *, run_id: str | None, folder: Path | None
    ) -> str:
        if folder is not None:
            os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))  # read when it is imported
        import trackio

        self._run = trackio.init(
            project=PROJECT, name=run_id or job_id, config=dict(config), resume="allow", embed=False
        )
        return str(self._run.name)

    def log(self, points: list[Point]) -> None:
        for step, values in points:
            self._run.log(values, step=step)

    def end(self, state: EndState) -> None:
        self._run.finish()


TRACKERS: Mapping[TrackerName, Callable[[], Tracker]] = {"mlflow": Mlflow, "wandb": Wandb, "trackio": Trackio}


class TrackedRun:
    """Hands the metrics of a job over to a tracker, in a thread of its own."""

    def __init__(
        self, name: TrackerName, tracker: Tracker, *, config: Mapping[str, Any], job_dir: JobDir
    ) -> None:
        self._name, self._tracker, self._config, self._job_dir = name, tracker, config, job_dir
        self._waiting: queue.Queue[Point | EndState] = queue.Queue(_MAX_WAITING)
        self._has_failed = self._has_ended = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Add what is a number of the metrics of a step; never waits."""
        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "step"
        }
        if not self._has_failed:
            try:
                self._waiting.put_nowait((step, numbers))
            except queue.Full:
                self._give_up("it is slower than the training")

    def end(self, state: EndState) -> None:
        """End the run, and wait a while until everything has been handed over. A second call does nothing."""
        if not self._has_failed and not self._has_ended:
            self._has_ended = True
            try:
                self._waiting.put(state, timeout=END_PATIENCE_S)
            except queue.Full:
                self._give_up("it does not take any more values")
                return
            self._thread.join(END_PATIENCE_S)
            if self._thread.is_alive():
                self._give_up(f"it did not end its run within {END_PATIENCE_S:.0f} s")

    def _run(self) -> None:
        try:
            self._hand_over()
        except BaseException as e:  # a border: what a library raises, SystemExit too, is not the job's error
            if isinstance(e, ImportError):
                self._give_up(f"it is not installed here (`pip install bertjobs[{self._name}]`): {e}")
            else:
                self._give_up(f"{type(e).__name__}: {e}")

    def _hand_over(self) -> None:
        record = self._read_record()
        last_step = int(record.get("last_step", 0))
        local = None if self._job_dir.is_remote else Path(self._job_dir.path_of("")).parent
        job_id = self._job_dir.uri.rpartition("/")[2]
        run_id = self._tracker.start(job_id, self._config, run_id=record.get("run_id"), folder=local)
        end: EndState | None = None
        while end is None:
            points, end = self._take()
            # A resumed job takes some steps again. An evaluation has the step of the training step before it,
            # and comes after it: so both are kept, and what an earlier attempt has sent is not sent again.
            new = [(step, values) for step, values in points if step > last_step]
            if new:
                # Noted first: a process that is killed in between leaves a gap, not a step twice.
                newest = max(step for step, _ in new)
                document = {"tracker": self._name, "run_id": run_id, "last_step": newest}
                self._job_dir.write_json(RECORD, document)
                self._tracker.log(new)
        self._tracker.end(end)

    def _take(self) -> tuple[list[Point], EndState | None]:
        """Return the points of the next seconds, and the state of the run where that is its end."""
        points: list[Point] = []
        wait_s: float | None = None
        while True:
            try:
                item = self._waiting.get(timeout=wait_s)
            except queue.Empty:
                return points, None
            if isinstance(item, str):
                return points, item
            points.append(item)
            wait_s = _FLUSH_S if len(points) < 100 else 0.0
            if len(points) >= 1000:
                return points, None

    def _read_record(self) -> Mapping[str, Any]:
        """Return what an earlier attempt has noted; nothing where it used another tracker."""
        if not self._job_dir.exists(RECORD):
            return {}
        found: Mapping[str, Any] = self._job_dir.read_json(RECORD)
        return found if found.get("tracker") == self._name else {}

    def _give_up(self, why: str) -> None:
        with self._lock:
            if not self._has_failed:
                log.warning("--report-to %s is given up, the job goes on: %s", self._name, why)
                self._has_failed = True  # only now: whoever sees it may end the process


@contextmanager
def tracked(
    name: TrackerName, *, config: Mapping[str, Any], job_dir: JobDir, is_first: bool
) -> Iterator[TrackedRun | None]:
    """Report the block's metrics to a tracker, on rank 0; None where nobody is to be told.

    How the block ends is how the run ends, unless the block has called `TrackedRun.end`.
    """
    if name == "none" or not is_first:
        yield None
        return
    run = TrackedRun(name, TRACKERS[name](), config=flat_values(config), job_dir=job_dir)
    state: EndState = "failed"
    try:
        yield run
        state = "finished"
    finally:
        run.end(state)
