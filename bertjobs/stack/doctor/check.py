"""The result of one check of `bertjobs doctor`: what it found, and what to do about it.

A module of its own because the tables of the command line import it, and must not import the checks.
"""

from dataclasses import dataclass
from typing import Literal

CheckStatus = Literal["ok", "warning", "broken", "unknown"]
"""`broken`: jobs would be lost or could not run. `unknown`: it could not be checked."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the output of `bertjobs doctor`."""

    name: str
    verdict: CheckStatus
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    """Return a check that found no problem."""
    return Check(name=name, verdict="ok", found=found)


def warning(name: str, found: str, remedy: str) -> Check:
    """Return a check that found something to improve."""
    return Check(name=name, verdict="warning", found=found, remedy=remedy)


def broken(name: str, found: str, remedy: str) -> Check:
    """Return a check that found a problem."""
    return Check(name=name, verdict="broken", found=found, remedy=remedy)


def unknown(name: str, found: str) -> Check:
    """Return a check that could not be made."""
    return Check(name=name, verdict="unknown", found=found)
