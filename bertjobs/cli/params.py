"""A span of time on the command line."""

import re
from typing import Any

import click


class Duration(click.ParamType[float]):
    """Seconds, or a time in units: `90`, `90s`, `45m`, `2h30m`, `1d`."""

    name = "duration"
    _PARTS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = self._PARTS.fullmatch(f"{value}s" if str(value).isdecimal() else str(value))
        if found is None or not any(found.groups()):
            self.fail(f"{value} is no duration; give seconds, or as in 90s, 45m, 2h30m, 1d.", param, ctx)
        units_s = (86400.0, 3600.0, 60.0, 1.0)
        total_s = sum(int(n or 0) * unit_s for n, unit_s in zip(found.groups(), units_s, strict=True))
        return total_s or self.fail("it must be more than no time at all.", param, ctx)
