"""`bertjobs run`: one attempt in the foreground, without a queue, on Ray where it runs or on one of its own.

What a lease does in the queue, a file does here: `checkpoints/latest.json` names the checkpoint to go on
from, and the same command with the same `--output` goes on from it.
"""

import json
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from bertjobs.config import JobConfig
from bertjobs.errors import ConfigError
from bertjobs.jobs.job import Grant
from bertjobs.jobs.sizing import Cluster, Node, exceeds, size_workers
from bertjobs.runs.kinds import DRIVER_OF_KIND
from bertjobs.runs.run import Reporter, Run
from bertjobs.settings import Settings
from bertjobs.storage import JobDir

log = logging.getLogger(__name__)

LATEST = "checkpoints/latest.json"
LIVE = "progress.json"


@dataclass(frozen=True, kw_only=True)
class FileReporter:
    """Reports into the run's folder; the foreground process shows what it finds there."""

    job_dir: JobDir

    def set_phase(self, text: str) -> None:
        print(text, file=sys.stderr)

    def progress(self, values: dict[str, Any]) -> None:
        self.job_dir.write_json(LIVE, values)

    def log_metrics(self, values: dict[str, Any]) -> None:
        """Nothing to do: the series is in metrics.jsonl, and nobody watches from elsewhere."""

    def publish_checkpoint(self, name: str, step: int) -> None:
        self.job_dir.write_json(LATEST, {"name": name, "step": step})

    def command(self) -> str | None:
        return None

    def __call__(self) -> Reporter:
        return self


def run(kind: str, config: JobConfig, *, output: str | None, settings: Settings) -> dict[str, Any]:
    """Do the work here and now; return the same document as `submit --wait --json`.

    Raises: BertjobsError: as the driver of the kind.
    """
    job_dir, run_id = _folder(output, settings)
    job_dir.check_writable()
    _check_same_config(job_dir, config)
    job_dir.write_json("config.json", config.model_dump(mode="json"))
    began = datetime.now(UTC)
    reporter = FileReporter(job_dir=job_dir)
    with _ray(settings), _shown(job_dir), ExitStack() as resources:
        outcome = DRIVER_OF_KIND[kind](
            Run(
                id=run_id,
                attempt=1,
                config=config,
                job_dir=job_dir,
                settings=settings,
                grant=_grant(config),
                reporter=reporter,
                open_reporter=reporter,
                checkpoint=_latest(job_dir),
                resources=resources,
            )
        )
    return {
        "id": run_id,
        "kind": kind,
        "state": "SUCCEEDED",
        "reason": None,
        "attempts": 1,
        "metrics": outcome.metrics,
        "artifacts": {"dir": job_dir.uri, **outcome.artifacts},
        "submitted_at": began.isoformat(),
        "started_at": began.isoformat(),
        "ended_at": datetime.now(UTC).isoformat(),
    }


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
            f"--output {job_dir.uri} holds a run of another configuration.",
            hint="Give an empty folder, or the flags of that run (see its config.json) to go on with it.",
        )


def _latest(job_dir: JobDir) -> str | None:
    return str(job_dir.read_json(LATEST)["name"]) if job_dir.exists(LATEST) else None


def _grant(config: JobConfig) -> Grant:
    """Size the gang for the Ray we are on. Raises: ConfigError: it does not fit."""
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
def _ray(settings: Settings) -> Iterator[None]:
    """Join the Ray of this node where there is one (RAY_ADDRESS), else start one for the time of the run."""
    print("starting Ray", file=sys.stderr)
    ray.init(
        address=os.environ.get("RAY_ADDRESS"),  # Ray's own variable, as for any Ray program in the foreground
        include_dashboard=False if "RAY_ADDRESS" not in os.environ else None,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _shown(job_dir: JobDir) -> Iterator[None]:
    """Show the live values on stderr: in place on a terminal, a line every few seconds elsewhere."""
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(job_dir, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(job_dir: JobDir, done: threading.Event) -> None:
    is_terminal, shown = sys.stderr.isatty(), None
    path = Path(job_dir.path_of(LIVE))
    while not done.wait(0.3 if is_terminal else 3.0):
        if not path.exists():
            continue
        values = json.loads(path.read_bytes())
        if values != shown:
            shown = values
            print(_line(values), file=sys.stderr, end="\r" if is_terminal else "\n", flush=True)
    if is_terminal and shown:
        print(file=sys.stderr)


def _line(values: dict[str, Any]) -> str:
    parts = [f"step {values['step']}/{values['num_steps']}"]
    if "loss" in values:
        parts += [f"loss {values['loss']:.4f}", f"{values['examples_per_s']:.0f} examples/s"]
        parts += [f"ETA {time.strftime('%H:%M:%S', time.gmtime(values['eta_s']))}"]
    return "  ".join(parts)
