"""Options and types that several commands share: `--json`, times in units, arguments that name jobs."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import click

from bertjobs.cli.completion import complete_jobs
from bertjobs.jobs.job import State

JSON_HELP = "Print one JSON document."
json_option = click.option("--json", "as_json", is_flag=True, help=JSON_HELP)


def job_argument(
    *, required: bool = True, states: Iterable[State] | None = None, kinds: Iterable[str] | None = None
) -> Callable[..., Any]:
    """Return the argument `job`; the shell completes jobs in these states and of these kinds."""
    return click.argument("job", required=required, shell_complete=complete_jobs(states=states, kinds=kinds))


def jobs_argument(*, states: Iterable[State] | None = None) -> Callable[..., Any]:
    """Return the argument `jobs`, one or more; the shell completes jobs in these states."""
    return click.argument(
        "jobs", nargs=-1, required=True, metavar="JOB...", shell_complete=complete_jobs(states=states)
    )


class Duration(click.ParamType[float]):
    """Seconds, or a time in units: `90`, `90s`, `45m`, `2h30m`, `1d`."""

    name = "duration"
    _PARTS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = self._PARTS.fullmatch(f"{value}s" if str(value).isdecimal() else str(value))
        if found is None or not any(found.groups()):
            self.fail(
                f"{value} is not a duration; give seconds, or units as in 90s, 45m, 2h30m, 1d", param, ctx
            )
        units_s = (86400.0, 3600.0, 60.0, 1.0)
        total_s = sum(int(n or 0) * unit_s for n, unit_s in zip(found.groups(), units_s, strict=True))
        return total_s or self.fail(f"{value} is not allowed; it must be more than 0 seconds", param, ctx)
