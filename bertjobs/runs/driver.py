"""The driver of an attempt: it holds the lease, runs the job, and ends the attempt with its result or error.

This is one of the two borders where every exception is caught. The slow imports come after the first
heartbeat.
"""

import faulthandler
import logging
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import FrameType

from bertjobs import __version__
from bertjobs.errors import BertjobsError, LeaseLost, RunError, StorageError
from bertjobs.jobs.attempt_result import AttemptResult, publish_outputs
from bertjobs.jobs.driver.session import JobSession
from bertjobs.settings import Settings, load_settings
from bertjobs.storage import JobDir, StorageRoots

log = logging.getLogger("bertjobs.driver")


def main(job_id: str, *, attempt: int, token: int) -> int:
    """Run one attempt; return the exit code that Ray records."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, _on_sigterm)
    faulthandler.register(signal.SIGUSR1, file=sys.stdout)  # the heartbeat asks for the stacks before a stop
    settings = load_settings()
    try:
        with (
            JobSession.open(settings, job_id=job_id, attempt=attempt, token=token) as session,
            session.keep_alive(),
        ):
            return _run_attempt(session, settings)
    except LeaseLost as e:
        log.error("%s attempt %d: %s", job_id, attempt, e)
        return e.exit_code


def _run_attempt(session: JobSession, settings: Settings) -> int:
    try:
        session.start()
        check_version(session.attempt.version)
        check_storage(session.job.job_dir, settings)
        result = session.earlier_result()
        if result is None:
            result = _run_job(session, settings)
        else:
            log.info("%s: an earlier attempt left its result; there is nothing to do", session.job.id)
        return _succeed(session, result)
    except LeaseLost:
        raise
    except Terminated:
        return _end_attempt(session, _reason_of_sigterm(session))
    except Exception as e:
        return _end_attempt(session, e)


def _succeed(session: JobSession, result: AttemptResult) -> int:
    """End the attempt with success. Once the result is in storage nothing turns it into an error."""
    try:
        # SIGTERM now comes too late: a job that was cancelled after its work was done has succeeded. The
        # heartbeat and Ray send SIGKILL where this takes too long.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        session.finish("SUCCEEDED", metrics=result.metrics, artifacts=result.artifacts)
        log.info("%s SUCCEEDED", session.job.id)
        publish_outputs(session.job.job_dir)
    except LeaseLost:
        raise
    except Exception as e:
        if not session.has_result:
            raise
        log.warning("%s is done, its result is in storage; what follows failed: %s", session.job.id, e)
    return 0


class VersionMismatch(RunError):
    """The package on this node is another than the dispatcher's: what it reads and writes may differ."""

    failure = "VersionMismatch"


def check_version(version: str) -> None:
    """Raises: VersionMismatch: the dispatcher's version is not ours."""
    if version != __version__:
        raise VersionMismatch(
            f"The dispatcher is bertjobs {version or '(unknown)'}, this node has {__version__}",
            hint="Install one version on all nodes and where the dispatcher runs, restart the dispatcher, "
            "and `bertjobs retry` the job.",
        )


def check_storage(job_dir: JobDir, settings: Settings) -> None:
    """Raises: StorageError: the job's record names a place that no job may read from or write to."""
    if not StorageRoots(settings.allowed_to_drivers).contain(job_dir):
        raise StorageError(
            f"The job's storage, {job_dir.uri}, is in none of the places where the storage of jobs may be",
            hint="Set BERTJOBS_STORAGE where you submit to that of the dispatcher, or have it added to the "
            "dispatcher's BERTJOBS_STORAGE_ROOTS.",
        )


def _run_job(session: JobSession, settings: Settings) -> AttemptResult:
    # Here, so that a broken installation is reported like any other error.
    os.environ.update(RAY_COLOR_PREFIX="0", RAY_DEDUP_LOGS="0")  # read at import: the log is a file
    import ray

    from bertjobs.config import load_config, stored_layer
    from bertjobs.runs.cache_limit import limit_cache
    from bertjobs.runs.input_files import fetch_inputs
    from bertjobs.runs.kinds import driver_of
    from bertjobs.runs.reporting import open_session
    from bertjobs.runs.run_context import Run, remaining_checkpoint
    from bertjobs.runs.worker_exit import SETUP_HOOK

    job, attempt = session.job, session.attempt
    max_mb = settings.max_cache_mb
    limit_cache(
        settings.cache, keep_s=settings.keep_cache_s, max_bytes=None if max_mb is None else max_mb * 1e6
    )
    job_dir = JobDir(job.storage, job.id, writer=f"a{attempt.number}")
    job_dir.check_writable()
    job_dir.recover()
    job_dir.write_json("config.json", job.config)
    ray.init(
        address="auto",
        log_to_driver=True,
        logging_level=logging.WARNING,
        runtime_env={"worker_process_setup_hook": SETUP_HOOK},
    )
    with ExitStack() as resources:
        outcome = driver_of(job.kind)(
            Run(
                id=job.id,
                attempt=attempt.number,
                config=fetch_inputs(
                    load_config(job.kind, stored_layer(job.config)), storage=job.storage, cache=settings.cache
                ),
                job_dir=job_dir,
                settings=replace(settings, storage=job.storage),  # the submitter's: earlier jobs are there
                grant=attempt.grant,
                reporter=session,
                open_reporter=partial(
                    open_session, job_id=job.id, attempt=attempt.number, token=attempt.token
                ),
                checkpoint=remaining_checkpoint(job_dir, job.checkpoint),
                resources=resources,
            )
        )
    return AttemptResult(metrics=outcome.metrics, artifacts={"dir": job_dir.uri, **outcome.artifacts})


class Terminated(BaseException):
    """SIGTERM, raised wherever the driver is: it was cancelled, lost its lease, or is being stopped."""


def _on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; SIGKILL follows if we take too long
    raise Terminated


def _reason_of_sigterm(session: JobSession) -> BaseException:
    """Ask the queue what SIGTERM meant. Raises: LeaseLost: it meant that."""
    from bertjobs.runs.reporting import DriverStopped, stop_reason  # slow, as in _run_job

    if (command := session.command()) in ("cancel", "drain", "stalled"):
        return stop_reason(command, stall_timeout_s=session.stall_timeout_s)
    return DriverStopped("The driver was stopped from outside, by SIGTERM")


def _end_attempt(session: JobSession, error: BaseException) -> int:
    """Stop what runs under this driver, then end the attempt: nothing may compute under a freed grant."""
    if isinstance(error, BertjobsError):
        log.error("%s: %s", error.failure, error)
    else:
        log.error("%s", error, exc_info=error)
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
    state = session.finish(error)
    log.info("%s attempt %d ended: %s", session.job.id, session.attempt.number, state)
    return error.exit_code if isinstance(error, BertjobsError) else 1
