"""What is told about jobs, as JSON with stable keys: by `status --json` and by the page's server."""

from collections.abc import Sequence
from typing import Any

from bertjobs.jobs.job import Event, Job


def status_document(job: Job, events: Sequence[Event], *, dashboard_url: str | None) -> dict[str, Any]:
    """Return everything about one job: what `list` shows, results, configuration, attempts and timeline.

    dashboard_url: the job's page on Ray's dashboard.
    """
    return {
        **job.to_json(),
        "config": job.config,
        "preset": job.preset,
        "history": [attempt.to_json() for attempt in job.attempts],
        "events": [event.to_json() for event in events],
        "after": list(job.after),
        "dashboard_url": dashboard_url,
    }


def dashboard_page(job: Job, *, address: str | None) -> str | None:
    """Return the address of a job's latest attempt on the dashboard at `address`; None before the first
    attempt, or without Ray. The address contains no token: the dashboard asks for it."""
    if job.attempt is None or address is None:
        return None
    return f"{address.rstrip('/')}/#/jobs/{job.attempt.submission_id}"
