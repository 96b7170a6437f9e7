"""Jobs, searches, times and numbers as short text. Pure functions: print nothing and read no clock."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from bertjobs.jobs.job import Job, JobSummary, State


def status_line(job: JobSummary) -> str:
    """Return one line on what a job is doing, why it waits, or how it ended."""
    if job.state.is_waiting:
        place = f"#{job.place} " if job.place else ""
        return place + reason_text(job.reason, job.message)
    if job.state in (State.STARTING, State.RUNNING):
        return progress_line(job) or printable(job.phase)
    took = job.ended_at and job.started_at and f"took {format_duration(job.ended_at - job.started_at)}"
    if job.state is State.SUCCEEDED:
        return took or ""
    return reason_text(job.reason, job.message)


def progress_line(job: JobSummary) -> str:
    """Return how far the training is; an empty text before the first report."""
    report = job.progress
    if "num_trials" in report:
        return ", ".join(part for part in (search_progress(report), closing_phase(job)) if part)
    if "step" not in report or "num_steps" not in report:
        return ""
    parts = [f"step {report['step']}/{report['num_steps']}"]
    for key, label in (("loss", "loss {}"), ("examples_per_s", "{} examples/s")):
        if key in report:
            parts.append(label.format(format_number(report[key])))
    if closing := closing_phase(job):
        parts.append(closing)
    elif "eta_s" in report and job.state is State.RUNNING:
        parts.append(f"{format_seconds(report['eta_s'])} left")
    return ", ".join(parts)


def closing_phase(job: JobSummary) -> str:
    """Return the phase after the last step. Until then the reported phase is that before the first step."""
    report = job.progress
    done, total = ("num_ended", "num_trials") if "num_trials" in report else ("step", "num_steps")
    is_after = done in report and report[done] == report[total]
    return printable(job.phase) if is_after and not job.state.is_terminal else ""


def search_progress(report: Mapping[str, Any]) -> str:
    """Return one line on how far a search is."""
    parts = [f"{report['num_ended']}/{report['num_trials']} trials"]
    for key, word in (("num_stopped_early", "stopped early"), ("num_failed", "failed")):
        if report[key]:
            parts.append(f"{report[key]} {word}")
    if best := report["best"]:
        parts.append(f"best {report['metric']} {format_number(best['value'])} (trial {best['number']})")
    if report["examples_per_s"]:
        parts.append(f"{format_number(report['examples_per_s'])} examples/s")
    return ", ".join(parts)


def evaluated_split(job: Job) -> str:
    """Return which split the results of a job are about, for people; empty for a job without results."""
    data = job.config.get("data", {})
    if job.kind == "evaluate":
        return f"{data['split']} split" if "split" in data else ""
    if job.kind in ("finetune", "tune"):
        return f"{data['valid_split']} split" if data.get("valid_split") else "development split"
    return "validation corpus" if job.kind == "pretrain" else ""


def reason_text(reason: str, message: str) -> str:
    """Join reason and message; the reason is left out where the message starts with it."""
    parts = [message] if message.startswith(reason) else [reason, message]
    return printable(": ".join(part for part in parts if part))


def format_age(then: datetime, now: datetime) -> str:
    """Return how long ago something happened, as in `3m05s`."""
    return format_duration(now - then)


def format_duration(span: timedelta) -> str:
    """Return a duration in its two largest units, as in `1h05m`."""
    return format_seconds(span.total_seconds())


def format_seconds(total: float) -> str:
    """Return a number of seconds in its two largest units."""
    total = max(0, round(total))
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if days:
        return f"{days}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m{total % 60:02d}s" if minutes else f"{total}s"


def format_number(value: Any) -> str:
    """Return a number with four significant digits, anything else as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return printable(str(value))


def printable(text: str) -> str:
    """Replace what is not printable: names and messages of other people must not control the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def trial_columns(paths: Iterable[str]) -> list[str]:
    """Return the names of the columns before the metric: a parameter has the last part of its path."""
    return ["TRIAL", *(path.rpartition(".")[2].upper().replace("_", " ") for path in paths), "EPOCH"]


def trial_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the trials that a running search reports."""
    rows = report["trials"]
    paths = list(rows[0]["values"]) if rows else []
    lines = [
        [
            str(row["number"]),
            *(printable(format_number(value)) for value in row["values"].values()),
            f"{row['epoch']:.2f}",
            "-" if row["value"] is None else f"{row['value']:.4f}",
            str(row["state"]),
        ]
        for row in rows
    ]
    return [*trial_columns(paths), str(report["metric"]).upper(), "STATE"], lines
