"""Print answers: tables for people, JSON for programs. No other module prints an answer to stdout."""

import json
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from bertjobs.cli.output.formatting import (
    evaluated_split,
    format_age,
    format_number,
    format_seconds,
    printable,
    reason_text,
    status_line,
    trial_table,
)
from bertjobs.jobs.job import Event, Job, JobSummary, State
from bertjobs.jobs.scheduling.sizing import count_of
from bertjobs.stack.doctor.check import Check

COLOURS = {
    State.HELD: "yellow",
    State.QUEUED: "cyan",
    State.RETRYING: "yellow",
    State.STARTING: "blue",
    State.RUNNING: "blue",
    State.CANCELLING: "yellow",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELLED: "magenta",
    State.TIMED_OUT: "red",
}

_VERDICT_COLOURS = {"ok": "green", "warning": "yellow", "broken": "red", "unknown": "magenta"}

_GAP = "  "
_NUMBER = re.compile(r"-|[\d.,]+%?")
"""Cells of these are aligned right: counts and shares."""
_NARROW = 100


def print_json(document: Any) -> None:
    """Print one document on stdout."""
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


def print_line(text: str) -> None:
    """Print one line of an answer on stdout."""
    click.echo(text)


def print_bytes(content: bytes) -> None:
    """Print a part of a log on stdout, unchanged."""
    click.echo(content, nl=False)


def print_note(text: str) -> None:
    """Print a line on stderr: progress, hints, whatever is not the answer."""
    click.echo(text, err=True)


def print_jobs(jobs: Sequence[JobSummary], *, now: datetime | None = None) -> None:
    """Print a line per job; the last column is what it is doing, or why it waits or failed."""
    if not jobs:
        return
    now = now or datetime.now(UTC)
    is_wide = terminal_width() is None or (terminal_width() or 0) >= _NARROW
    header = ["ID", "STATE", "KIND", *(["NAME", "USER"] if is_wide else []), "AGE", "STATUS"]
    rows = []
    for job in jobs:
        extra = [_cut(printable(job.name) or "-", 20), _cut(printable(job.user), 12)] if is_wide else []
        state = click.style(str(job.state), fg=COLOURS[job.state])
        rows.append([job.id, state, job.kind, *extra, format_age(job.submitted_at, now), status_line(job)])
    print_table(header, rows)


def print_job(
    job: Job, events: Iterable[Event], *, dashboard: str | None = None, now: datetime | None = None
) -> None:
    """Print one job: settings, trials, results, timeline."""
    now = now or datetime.now(UTC)
    click.echo(f"{click.style(job.id, bold=True)}  {_state(job)}  {status_line(job)}".rstrip())
    print_facts([*_facts(job, now), ("dashboard", dashboard or "")])
    if "trials" in job.progress:
        click.secho("\nTrials", bold=True)
        print_table(*trial_table(job.progress))
    if job.metrics:
        split = evaluated_split(job)
        click.secho(f"\nResults on the {split}" if split else "\nResults", bold=True)
        print_metrics(job.metrics)
    click.secho("\nTimeline", bold=True)
    rows = [
        [_dim_date(e.at), click.style(str(e.state), fg=COLOURS[e.state]), reason_text(e.reason, e.message)]
        for e in events
    ]
    print_table(None, rows, wrap=True)


def print_check(check: Check) -> None:
    """Print one result of `bertjobs doctor`, and under it how to fix it."""
    verdict = click.style(check.verdict.ljust(8), fg=_VERDICT_COLOURS[check.verdict])
    click.echo(f"{verdict}{_GAP}{check.name.ljust(17)}{_GAP}{printable(check.found)}")
    if check.remedy:
        click.echo(f"{' ' * 8}{_GAP}{' ' * 17}{_GAP}-> {printable(check.remedy)}")


def print_results(document: dict[str, Any]) -> None:
    """Print the results of a run in the foreground."""
    print_metrics(document["metrics"])
    print_facts([(k, printable(v)) for k, v in document["artifacts"].items() if isinstance(v, str)])


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print the metrics of an evaluation, and a table of those per class."""
    print_facts(
        [
            (name.replace("_", " "), format_number(value))
            for name, value in metrics.items()
            if not _is_nested(value)
        ]
    )
    if "per_class" in metrics:
        columns = ("precision", "recall", "f1", "support")
        rows = [[f"  {c['label']}", *(_score(c[name]) for name in columns)] for c in metrics["per_class"]]
        print_table(["  CLASS", *(name.upper() for name in columns)], rows)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one per line; those without a value are left out."""
    facts = [(name, value) for name, value in facts if value]
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        click.echo(f"{_GAP}{name.ljust(width)}{_GAP}{value}")


def print_table(header: list[str] | None, rows: list[list[str]], *, wrap: bool = False) -> None:
    """Print columns, numbers aligned right. On a terminal the last column is cut or wrapped to fit."""
    lines = [*([header] if header else []), *rows]
    if not lines:
        return
    widths = [max(_cells(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    total = terminal_width()
    room = None if total is None else max(10, total - sum(widths) - len(_GAP) * len(widths))
    number_columns = {
        i for i in range(len(widths)) if rows and all(_NUMBER.fullmatch(row[i]) for row in rows)
    }
    for line in lines:
        blanks = [" " * (width - _cells(cell)) for cell, width in zip(line, widths, strict=False)]
        padded = [b + line[i] if i in number_columns else line[i] + b for i, b in enumerate(blanks)]
        first, *more = textwrap.wrap(line[-1], room) if wrap and room and line[-1] else [line[-1]]
        text = _GAP.join([*padded, first if room is None else _cut(first, room)]).rstrip()
        click.echo(click.style(text, dim=True) if line is header else text)
        for rest in more:
            click.echo(" " * (sum(widths) + len(_GAP) * len(widths)) + rest)


def terminal_width() -> int | None:
    """Return the width of the terminal on stdout; None where stdout is something else."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _score(value: float | int) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _state(job: JobSummary) -> str:
    return click.style(str(job.state), fg=COLOURS[job.state], bold=True)


def _facts(job: Job, now: datetime) -> list[tuple[str, str]]:
    attempt = job.attempt
    return [
        ("kind", job.kind),
        ("name", printable(job.name)),
        ("user", printable(job.user)),
        ("priority", str(job.priority) if job.priority else ""),
        ("after", ", ".join(job.after)),
        ("submitted", f"{_date(job.submitted_at)} ({format_age(job.submitted_at, now)} ago)"),
        ("started", _date(job.started_at)),
        ("ended", _date(job.ended_at)),
        ("time limit", "" if job.time_limit_s is None else format_seconds(job.time_limit_s)),
        ("stall timeout", "" if job.stall_timeout_s is None else format_seconds(job.stall_timeout_s)),
        ("kept", "" if job.keep_s is None else f"until {format_seconds(job.keep_s)} after its end"),
        ("requested", _requested_text(job.resources)),
        ("attempts", str(job.num_attempts) if job.num_attempts else ""),
        ("ray job", attempt.submission_id if attempt else ""),
        ("checkpoint", "" if job.checkpoint is None else f"{job.checkpoint} (step {job.checkpoint_step})"),
        ("folder", job.job_dir.uri),
        *((key, printable(value)) for key, value in job.artifacts.items() if _is_path(key, value)),
    ]


def _is_path(key: str, value: Any) -> bool:
    """Return whether an artefact is a path to show; the folder itself is shown as `folder`."""
    return isinstance(value, str) and key != "dir"


def _is_nested(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict)) or value is None


def _date(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _dim_date(moment: datetime) -> str:
    return click.style(_date(moment), dim=True)


def _cells(text: str) -> int:
    """Return how many terminal columns a text takes: colours none, CJK characters two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in click.unstyle(text))


def _cut(text: str, width: int) -> str:
    """Cut a text to a number of columns; an ellipsis shows that it was cut."""
    if _cells(text) <= width:
        return text
    kept, used = [], 0
    for c in click.unstyle(text):
        used += _cells(c)
        if used >= width:
            break
        kept.append(c)
    return "".join(kept) + "…"


def _requested_text(resources: Mapping[str, Any]) -> str:
    units = {"gpus": "GPU", "workers": "worker", "cpus_per_worker": "CPU"}
    found = {name: count_of(resources[name], unit) for name, unit in units.items() if resources.get(name)}
    if "cpus_per_worker" in found:
        found["cpus_per_worker"] += " per worker"
    return ", ".join(found.values())
