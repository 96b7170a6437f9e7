"""`bertjobs run`: one attempt in the foreground, without a queue, on Ray where it runs or on one of its own.

What the queue does under a lease, files do here: `latest.json` names the checkpoint to resume from, so that
the same command with the same `--output` continues the run, and `progress.json` is what is shown.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import ray

from bertjobs.config import JobConfig
from bertjobs.errors import ConfigError, RunError
from bertjobs.jobs.driver.throttle import Throttle, is_last_step
from bertjobs.jobs.job import Grant, State, iso
from bertjobs.jobs.scheduling.sizing import exceeds, size_workers
from bertjobs.jobs.scheduling.types import Cluster, Node
from bertjobs.runs.kinds import driver_of
from bertjobs.runs.run_context import Run, remaining_checkpoint
from bertjobs.settings import Settings, thread_environment
from bertjobs.storage import JobDir
from bertjobs.training.monitoring.profiling import TABLE

log = logging.getLogger(__name__)

LATEST = "latest.json"
PROGRESS = "progress.json"
WRITE_INTERVAL_S = 1.0
"""Least time between two versions of `progress.json`: each is flushed to disk."""
SHOW_INTERVAL_S = 2.0

Announce = Callable[[str], None]


def run(
    kind: str, config: JobConfig, *, output: str | None, settings: Settings, announce: Announce
) -> dict[str, Any]:
    """Run a job in this process; return the same document as `submit --wait --json`.

    Raises: ConfigError: the folder holds another run, or the cluster is too small. BertjobsError: as the
        driver of the kind.
    """
    began = datetime.now(UTC)
    job_dir, run_id = _folder(output, settings)
    job_dir.check_writable()
    job_dir.recover()
    _check_same_config(job_dir, config)
    job_dir.write_json("config.json", config.model_dump(mode="json"))
    announce("starting Ray")
    reporter = FileReporter(job_dir, announce=announce)
    with _ray(), _shown(job_dir, announce), closing(reporter), ExitStack() as resources:
        outcome = driver_of(kind)(
            Run(
                id=run_id,
                attempt=1,
                config=config,
                job_dir=job_dir,
                settings=settings,
                grant=_grant(config),
                reporter=reporter,
                open_reporter=partial(FileReporter, job_dir),
                checkpoint=_latest(job_dir),
                resources=resources,
            )
        )
    if job_dir.exists(TABLE):
        announce(job_dir.read_bytes(TABLE).decode())
    return {
        "id": run_id,
        "kind": kind,
        "state": str(State.SUCCEEDED),
        "reason": None,
        "attempts": 1,
        "metrics": outcome.metrics,
        "artifacts": {"dir": job_dir.uri, **outcome.artifacts},
        "submitted_at": iso(began),
        "started_at": iso(began),
        "ended_at": iso(datetime.now(UTC)),
    }


class FileReporter:
    """Reports into the run's folder, from any of its processes; the driver's also announces its phases."""

    def __init__(self, job_dir: JobDir, *, announce: Announce | None = None) -> None:
        self._job_dir = job_dir
        self._announce = announce
        self._progress = Throttle(partial(job_dir.write_json, PROGRESS), interval_s=WRITE_INTERVAL_S)

    def set_phase(self, text: str) -> None:
        self._progress.flush()
        if self._announce is not None:
            self._announce(text)

    def report_nodes(self, node_ids: list[str]) -> None:
        """Do nothing: nobody else shares out this Ray."""

    def progress(self, values: dict[str, Any]) -> None:
        self._progress.put(values, at_once=is_last_step(values))

    def log_metrics(self, values: dict[str, Any]) -> None:
        """Do nothing: the series is in metrics.jsonl, and nobody watches from elsewhere."""

    def publish_checkpoint(self, name: str, step: int) -> None:
        self._job_dir.write_json(LATEST, {"name": name, "step": step})

    def confirm_lease(self) -> None:
        """Do nothing: nobody else writes into the folder."""

    def command(self) -> str | None:
        return None

    def close(self) -> None:
        self._progress.flush()


def _folder(output: str | None, settings: Settings) -> tuple[JobDir, str]:
    if output is not None:
        path = Path(output).expanduser().absolute()
        return JobDir(str(path.parent), path.name), path.name
    run_id = f"run-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    return JobDir(settings.storage, run_id), run_id


def _check_same_config(job_dir: JobDir, config: JobConfig) -> None:
    """Raises: ConfigError: the folder holds a run of another configuration."""
    if job_dir.exists("config.json") and job_dir.read_json("config.json") != config.model_dump(mode="json"):
        raise ConfigError(
            f"--output {job_dir.uri} holds a run of another configuration",
            hint="Give an empty folder, or the flags of that run (see its config.json) to continue it.",
        )


def _latest(job_dir: JobDir) -> str | None:
    if not job_dir.exists(LATEST):
        return None
    return remaining_checkpoint(job_dir, str(job_dir.read_json(LATEST)["name"]))


def _grant(config: JobConfig) -> Grant:
    """Size the workers for this Ray cluster. Raises: ConfigError: they do not fit."""
    nodes = tuple(
        Node(
            id=node["NodeID"],
            cpus=float({"CPU": 0, **node["Resources"]}["CPU"]),
            gpus=float({"GPU": 0, **node["Resources"]}["GPU"]),
        )
        for node in ray.nodes()
        if node["Alive"]
    )
    cluster = Cluster(nodes=nodes)
    grant = size_workers(cluster, config.resources.model_dump())
    if pending := exceeds(cluster, grant):
        raise ConfigError(pending.message)
    return grant


@contextmanager
def _ray() -> Iterator[None]:
    """Join the Ray that RAY_ADDRESS names, as any Ray program does; else start one for the run."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # its 15 lets any other program take the cores
    os.environ.update(thread_environment())
    _start_ray()
    try:
        yield
    finally:
        ray.shutdown()


def _start_ray() -> None:
    """Start Ray, or join one, and try once more where it did not come up within Ray's fixed 30 s.

    Raises: RunError: it did not come up the second time either.
    """
    for attempt in (1, 2):
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as e:  # Ray raises nothing more specific where its node is slow to start
            if "timed out during startup" not in str(e):
                raise
            ray.shutdown()
            if attempt == 2:
                raise RunError(
                    "Ray did not start within 30 s, twice",
                    hint="The machine may be too busy, or short of memory: try again when less runs on it.",
                ) from e


@contextmanager
def _shown(job_dir: JobDir, announce: Announce) -> Iterator[None]:
    """Show the live values every few seconds while the block runs, and the last ones at its end."""
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(job_dir, announce, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(job_dir: JobDir, announce: Announce, done: threading.Event) -> None:
    shown = _progress(job_dir)  # of the run that this one continues
    is_done = False
    while not is_done:
        is_done = done.wait(SHOW_INTERVAL_S)
        values = _progress(job_dir)
        if values is not None and values != shown:
            shown = values
            announce(_line(values))


def _progress(job_dir: JobDir) -> dict[str, Any] | None:
    return dict(job_dir.read_json(PROGRESS)) if job_dir.exists(PROGRESS) else None


def _line(values: dict[str, Any]) -> str:
    if "num_trials" in values:
        best = values["best"]
        found = f", best {values['metric']} {best['value']:.4f} (trial {best['number']})" if best else ""
        return f"{values['num_ended']}/{values['num_trials']} trials{found}"
    parts = [f"step {values['step']}/{values['num_steps']}"]
    if "loss" in values:
        parts.append(f"loss {values['loss']:.4f}")
    if "examples_per_s" in values:
        parts.append(f"{values['examples_per_s']:.0f} examples/s")
        parts.append(f"{timedelta(seconds=round(values['eta_s']))} left")
    return ", ".join(parts)
