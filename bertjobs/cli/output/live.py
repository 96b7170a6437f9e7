"""The live display of one job on a terminal: progress bar, loss so far, speed and time left."""

from collections.abc import Iterable
from itertools import pairwise
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from bertjobs.cli.output.formatting import (
    closing_phase,
    format_number,
    format_seconds,
    printable,
    search_progress,
    status_line,
    trial_table,
)
from bertjobs.cli.output.render import COLOURS
from bertjobs.jobs.job import Job

_BLOCKS = "▁▂▃▄▅▆▇█"
_MAX_POINTS = 2000


class LiveDisplay:
    """Redraws the job in place; the last state stays on the screen."""

    def __init__(self, file: TextIO) -> None:
        self._console = Console(file=file)
        self._live = RichLive(console=self._console, refresh_per_second=8, transient=False)
        self._losses: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, job: Job) -> None:
        report = job.progress
        if "step" in report and "loss" in report:
            self._losses[int(report["step"])] = float(report["loss"])
            if len(self._losses) > _MAX_POINTS:
                self._losses = dict(list(self._losses.items())[::2])
        self._live.update(render_job(job, losses=self._losses.values(), width=self._console.width))


def render_job(job: Job, *, losses: Iterable[float], width: int) -> RenderableType:
    """Draw the current state of a job."""
    state = Text(str(job.state), style=f"bold {COLOURS[job.state]}")
    title = Text.assemble((job.id, "bold"), "  ", state, "  ", printable(job.name or job.kind))
    if job.state.is_terminal:
        return Group(title, *_progress(job, losses, width))
    if "step" not in job.progress:
        return Group(title, Spinner("dots", text=Text(status_line(job) or "waiting for the dispatcher")))
    return Group(title, *_progress(job, losses, width))


def _progress(job: Job, losses: Iterable[float], width: int) -> list[RenderableType]:
    report = job.progress
    if "trials" in report:
        return _trials(job)
    if "step" not in report or "num_steps" not in report:
        return []
    step, num_steps = int(report["step"]), int(report["num_steps"])
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        f"step {step}/{num_steps}",
        ProgressBar(total=num_steps, completed=step, width=max(10, width - 50)),
        _speed(job),
    )
    parts: list[RenderableType] = [bar]
    points = list(losses)
    if points:
        line = sparkline(points, width=max(10, width - 30))
        parts.append(Text.assemble("loss ", (line, "cyan"), f" {format_number(points[-1])}"))
    if closing := closing_phase(job):
        parts.append(Text(closing, style="dim"))
    return parts


def _trials(job: Job) -> list[RenderableType]:
    """Draw how far a search is, and its trials."""
    report = job.progress
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=int(report["num_trials"]), completed=int(report["num_ended"]), width=30),
        escape(search_progress(report)),
    )
    header, rows = trial_table(report)
    table = Table(*header, box=None, pad_edge=False, header_style="dim")
    for row in rows:
        table.add_row(*map(escape, row), style=_TRIAL_STYLES[row[-1]])
    closing = closing_phase(job)
    return [bar, table, *([Text(closing, style="dim")] if closing else [])]


_TRIAL_STYLES = {"running": "cyan", "finished": "", "stopped": "dim", "failed": "red"}


def _speed(job: Job) -> str:
    report = job.progress
    parts = []
    if "examples_per_s" in report:
        parts.append(f"{format_number(float(report['examples_per_s']))} examples/s")
    if "eta_s" in report and not job.state.is_terminal:
        parts.append(f"{format_seconds(float(report['eta_s']))} left")
    return escape("  ".join(parts))


def sparkline(points: list[float], *, width: int) -> str:
    """Draw values as a row of blocks, averaged where there are more values than columns."""
    if len(points) > width:
        edges = [i * len(points) // width for i in range(width + 1)]
        points = [sum(points[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[round((p - low) / span * (len(_BLOCKS) - 1))] for p in points)
