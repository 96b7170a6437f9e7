"""How a job, a time or a number is said in a few words. Pure text: prints nothing, asks no clock.

The trials of a running search, as the queue hears of them, as lines of a table.

A download as it comes in: one line that is redrawn on a terminal, a line per tenth elsewhere.
"""

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import click

from bertjobs.jobs.job import JobSummary, State


def what_of(job: JobSummary) -> str:
    """Say in one line what a job is doing, why it waits, or how it ended."""
    if job.state.is_waiting:
        place = f"#{job.place} " if job.place else ""
        return place + sentence(job.reason, job.message)
    if job.state in (State.STARTING, State.RUNNING):
        return progress_of(job) or printable(job.phase)
    took = job.ended_at and job.started_at and f"took {duration(job.ended_at - job.started_at)}"
    if job.state is State.SUCCEEDED:
        return took or ""
    return sentence(job.reason, job.message)


def progress_of(job: JobSummary) -> str:
    """Say how far the step loop is; nothing before its first report."""
    report = job.progress
    if "num_trials" in report:
        return ", ".join(part for part in (tally_of(report), closing_phase(job)) if part)
    if "step" not in report or "num_steps" not in report:
        return ""
    parts = [f"step {report['step']}/{report['num_steps']}"]
    for key, label in (("loss", "loss {}"), ("examples_per_s", "{} examples/s")):
        if key in report:
            parts.append(label.format(number(report[key])))
    if closing := closing_phase(job):
        parts.append(closing)
    elif "eta_s" in report and job.state is State.RUNNING:
        parts.append(f"{seconds(report['eta_s'])} left")
    return ", ".join(parts)


def closing_phase(job: JobSummary) -> str:
    """Say what is done after the last step; before it, the phase is still that from before the first."""
    report = job.progress
    done, total = ("num_ended", "num_trials") if "num_trials" in report else ("step", "num_steps")
    is_after = done in report and report[done] == report[total]
    return printable(job.phase) if is_after and not job.state.is_terminal else ""


def tally_of(report: Mapping[str, Any]) -> str:
    """Say in a line how far a search is."""
    parts = [f"{report['num_ended']}/{report['num_trials']} trials"]
    for key, word in (("num_stopped_early", "stopped early"), ("num_failed", "failed")):
        if report[key]:
            parts.append(f"{report[key]} {word}")
    if best := report["best"]:
        parts.append(f"best {report['metric']} {number(best['value'])} (trial {best['number']})")
    if report["examples_per_s"]:
        parts.append(f"{number(report['examples_per_s'])} examples/s")
    return ", ".join(parts)


def sentence(reason: str, message: str) -> str:
    """Join the word and the sentence of a reason; the word is left out where the sentence opens with it."""
    parts = [message] if message.startswith(reason) else [reason, message]
    return printable(": ".join(part for part in parts if part))


def duration_since(then: datetime, now: datetime) -> str:
    """Say how long ago, as in `3m`."""
    return duration(now - then)


def duration(span: timedelta) -> str:
    """Say a `timedelta` in its two largest units, as in `1h05m`."""
    return seconds(span.total_seconds())


def seconds(total: float) -> str:
    """Say seconds in their two largest units."""
    total = max(0, round(total))
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if days:
        return f"{days}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m{total % 60:02d}s" if minutes else f"{total}s"


def number(value: Any) -> str:
    """Show a number with four digits that count, anything else as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return printable(str(value))


def printable(text: str) -> str:
    """Return text on one line that cannot steer the terminal: names and messages come from other people."""
    return "".join(c if c.isprintable() else " " for c in text)


def header_of(paths: Iterable[str]) -> list[str]:
    """Name the columns up to the metric; a parameter is called by its leaf."""
    return ["TRIAL", *(path.rpartition(".")[2].upper().replace("_", " ") for path in paths), "EPOCH"]


def live_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the table that a running search reports."""
    rows = report["trials"]
    paths = list(rows[0]["values"]) if rows else []
    lines = [
        [
            str(row["number"]),
            *(printable(number(value)) for value in row["values"].values()),
            f"{row['epoch']:.2f}",
            "-" if row["value"] is None else f"{row['value']:.4f}",
            str(row["state"]),
        ]
        for row in rows
    ]
    return [*header_of(paths), str(report["metric"]).upper(), "STATE"], lines


_MIB = 1 << 20


class TransferLine:
    """Called with the bytes that are there and, where it is known, the bytes of the whole."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_terminal = sys.stderr.isatty()
        self._said_tenth = -1

    def __call__(self, num_bytes: int, total_bytes: int | None) -> None:
        is_done = num_bytes == total_bytes
        if self._is_terminal:
            click.echo(f"\r{self._text(num_bytes, total_bytes)}", nl=is_done, err=True)
            return
        tenth = 10 * num_bytes // total_bytes if total_bytes else num_bytes // (10 * _MIB)
        if tenth != self._said_tenth:
            self._said_tenth = tenth
            click.echo(self._text(num_bytes, total_bytes), err=True)

    def _text(self, num_bytes: int, total_bytes: int | None) -> str:
        if not total_bytes:
            return f"{self._name}: {num_bytes / _MIB:.1f} MiB"
        share = num_bytes / total_bytes
        return f"{self._name}: {share:4.0%} of {total_bytes / _MIB:.1f} MiB"
