"""Follow a job until it has ended: lines wherever output goes, a live picture on a terminal (in `live`)."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TextIO

import click

from bertjobs.cli.main import INTERRUPTED, report
from bertjobs.cli.output.formatting import number, progress_of, sentence, what_of
from bertjobs.cli.output.render import print_json, print_note
from bertjobs.errors import QueueError
from bertjobs.jobs.job import Job, State

POLL_S = 0.3
REDIS_PATIENCE_S = 60.0
"""How long Redis may be away (restarted, say) before following it is given up."""
SECONDS_BETWEEN_LINES = 5.0


class Store(Protocol):
    """The part of the job store that is needed to follow a job."""

    def get(self, job_id: str) -> Job: ...


class Display(Protocol):
    """Where the course of a job is shown."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, job: Job) -> None: ...


def follow(
    store: Store,
    job_id: str,
    *,
    display: Display,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Job:
    """Show the job until it has ended; return it then.

    Raises: QueueError: Redis stayed away for more than a minute, or there is no such job.
    """
    job = store.get(job_id)
    last_seen = clock()
    with display:
        while True:
            display.show(job)
            if job.state.is_terminal:
                return job
            sleep(POLL_S)
            try:
                job = store.get(job.id)
                last_seen = clock()
            except QueueError:
                if clock() - last_seen > REDIS_PATIENCE_S:
                    raise


def wait_for(store: Store, job_id: str, *, as_json: bool, display: Display | None = None) -> int:
    """Wait until the job has ended, say how, and return the exit code. Ctrl-C leaves the job alone."""
    try:
        job = follow(store, job_id, display=display or choose_display(sys.stderr))
    except KeyboardInterrupt:
        print_note(
            f"\nDetached; {job_id} goes on. `bertjobs wait {job_id}` comes back to it, "
            f"`bertjobs cancel {job_id}` ends it."
        )
        return INTERRUPTED
    if as_json:
        print_json(job.to_json())
    return conclude(job)


def conclude(job: Job) -> int:
    """Say on stderr how a job ended; return the exit code."""
    if job.state is State.SUCCEEDED:
        results = [f"{k} {number(v)}" for k, v in job.metrics.items() if isinstance(v, (int, float))]
        print_note(f"{job.id} SUCCEEDED ({what_of(job)}): {', '.join(results)}")
        print_note(f"{' ' * len(job.id)} in {job.job_dir.uri}")
        return 0
    report(
        f"{job.id} {job.state}: {sentence(job.reason, job.message)}",
        f"`bertjobs logs {job.id}` shows its log; `bertjobs retry {job.id}` queues it once more.",
    )
    return 1


def choose_display(file: TextIO) -> Display:
    """Return the live picture for a terminal, lines for anything else."""
    if not file.isatty():
        return Lines(file)
    from bertjobs.cli.output.live import Live  # rich takes 60 ms, which no other command should pay

    return Live(file)


class Lines:
    """A line when something changed, and every few seconds of training."""

    def __init__(self, file: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._said: tuple[str, ...] = ()
        self._said_step = -1
        self._next_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, job: Job) -> None:
        if job.state.is_terminal:
            return  # how it ended is the answer's to say
        now_s = self._clock()
        where = (str(job.state), str(job.reason), job.phase)
        step = int(job.progress["step"]) if "step" in job.progress else -1
        moved = where != self._said
        if moved or (step != self._said_step and now_s >= self._next_s):
            self._said, self._said_step, self._next_s = where, step, now_s + SECONDS_BETWEEN_LINES
            text = what_of(job) if moved else progress_of(job)
            click.echo(f"{job.id}  {job.state}  {text}".rstrip(), file=self._file)
