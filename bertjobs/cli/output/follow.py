"""Follow a job until it has ended: plain lines, or on a terminal the live display of `live`."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TextIO

import click

from bertjobs.cli.main import INTERRUPTED, print_error
from bertjobs.cli.output.formatting import (
    evaluated_split,
    format_number,
    progress_line,
    reason_text,
    status_line,
)
from bertjobs.cli.output.render import print_json, print_note
from bertjobs.errors import QueueError
from bertjobs.jobs.job import Job, State

POLL_S = 0.3
REDIS_PATIENCE_S = 60.0
"""How long Redis may be unreachable (during a restart, say) before following a job fails."""
LINE_INTERVAL_S = 5.0


class Display(Protocol):
    """Shows the progress of a job: `LineDisplay`, or `LiveDisplay` on a terminal."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, job: Job) -> None: ...


def follow(
    get_job: Callable[[str], Job],
    job_id: str,
    *,
    display: Display,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Job:
    """Show the job until it has ended; return it then.

    Raises: QueueError: Redis was unreachable for more than a minute, or there is no such job.
    """
    job = get_job(job_id)
    last_seen = clock()
    with display:
        while True:
            display.show(job)
            if job.state.is_terminal:
                return job
            sleep(POLL_S)
            try:
                job = get_job(job.id)
                last_seen = clock()
            except QueueError:
                if clock() - last_seen > REDIS_PATIENCE_S:
                    raise


def wait_for(
    get_job: Callable[[str], Job], job_id: str, *, as_json: bool, display: Display | None = None
) -> int:
    """Wait until the job has ended, print how, and return the exit code. Ctrl-C does not end the job."""
    try:
        job = follow(get_job, job_id, display=display or choose_display(sys.stderr))
    except KeyboardInterrupt:
        print_note(
            f"\nDetached; {job_id} keeps running. `bertjobs wait {job_id}` waits for it again, "
            f"`bertjobs cancel {job_id}` cancels it."
        )
        return INTERRUPTED
    if as_json:
        print_json(job.to_json())
    return conclude(job)


def conclude(job: Job) -> int:
    """Print on stderr how a job ended; return the exit code."""
    if job.state is State.SUCCEEDED:
        results = [f"{k} {format_number(v)}" for k, v in job.metrics.items() if isinstance(v, (int, float))]
        split = evaluated_split(job)
        print_note(f"{job.id} SUCCEEDED ({status_line(job)})")
        if results:
            print_note(f"{' ' * len(job.id)} {split}{': ' if split else ''}{', '.join(results)}")
        print_note(f"{' ' * len(job.id)} in {job.job_dir.uri}")
        return 0
    print_error(
        f"{job.id} {job.state}: {reason_text(job.reason, job.message)}",
        f"`bertjobs logs {job.id}` shows its log; `bertjobs retry {job.id}` queues it again.",
    )
    return 1


def choose_display(file: TextIO) -> Display:
    """Return the live display for a terminal, plain lines for anything else."""
    if not file.isatty():
        return LineDisplay(file)
    from bertjobs.cli.output.live import LiveDisplay  # rich takes 60 ms, too much for other commands

    return LiveDisplay(file)


class LineDisplay:
    """Prints a line when state, reason or phase change, and every few seconds of training."""

    def __init__(self, file: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._last: tuple[str, ...] = ()
        self._last_step = -1
        self._next_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, job: Job) -> None:
        if job.state.is_terminal:
            return  # `conclude` prints how it ended
        now_s = self._clock()
        where = (str(job.state), str(job.reason), job.phase)
        step = int(job.progress["step"]) if "step" in job.progress else -1
        moved = where != self._last
        if moved or (step != self._last_step and now_s >= self._next_s):
            self._last, self._last_step, self._next_s = where, step, now_s + LINE_INTERVAL_S
            text = status_line(job) if moved else progress_line(job)
            click.echo(f"{job.id}  {job.state}  {text}".rstrip(), file=self._file)
