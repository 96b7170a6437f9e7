"""One thing that `bertjobs doctor` looked at, what it found, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

CheckStatus = Literal["ok", "warning", "broken", "unknown"]
"""`broken`: work would be lost or could not be done. `unknown`: it could not be looked at."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A line of the doctor's page."""

    name: str
    verdict: CheckStatus
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    """Make a check that found nothing wrong."""
    return Check(name=name, verdict="ok", found=found)


def warning(name: str, found: str, remedy: str) -> Check:
    """Make a check that found something to improve."""
    return Check(name=name, verdict="warning", found=found, remedy=remedy)


def broken(name: str, found: str, remedy: str) -> Check:
    """Make a check that found what must not stay."""
    return Check(name=name, verdict="broken", found=found, remedy=remedy)


def unknown(name: str, found: str) -> Check:
    """Make a check that something else kept from being made."""
    return Check(name=name, verdict="unknown", found=found)
