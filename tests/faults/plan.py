"""What goes wrong in a run, drawn from its seed: who, how, and at which of its calls."""

import random
from dataclasses import dataclass

TARGETS = ("driver", "rank", "heartbeat", "dispatcher", "standby", "redis", "ray", "storage")
FAULTS = (
    "kill",
    "pause",
    "cut from redis",
    "cut from ray",
    "cut from both",
    "lost answer",
    "duplicate",
    "slow",
    "read-only",
    "out of memory",
    "rollback 1 s",
    "rollback 60 s",
)
PROCESS = frozenset(FAULTS[:8])
APPLICABLE = {
    "driver": PROCESS,
    "rank": PROCESS,
    "heartbeat": frozenset({"kill", "pause", "cut from redis", "lost answer", "duplicate", "slow"}),
    "dispatcher": PROCESS,
    "standby": frozenset({"kill", "pause", "cut from redis"}),
    "redis": frozenset({"kill", "pause", "slow", *FAULTS[8:]}),
    "ray": frozenset({"kill", "pause", "slow", "cut from both"}),
    "storage": frozenset({"pause", "slow", "read-only", "out of memory", "lost answer"}),
}
"""Which cells of the table exist. Ray's `cut from both` is a head that calls a living job FAILED."""
SERVICES = ("redis", "ray", "storage")


@dataclass(kw_only=True)
class PlannedFault:
    """One fault. A process meets it at its `at_call`-th call, a service at anybody's."""

    target: str
    fault: str
    at_call: int
    is_after: bool
    """After the effect of that call, before its answer is used."""
    lasts_s: float
    has_happened: bool = False

    @property
    def cell(self) -> tuple[str, str]:
        return self.target, self.fault


def draw_faults(rng: random.Random) -> list[PlannedFault]:
    """Draw one to four faults; each cell of the table is equally likely."""
    cells = [(target, fault) for target in TARGETS for fault in FAULTS if fault in APPLICABLE[target]]
    return [_draw(rng, *rng.choice(cells)) for _ in range(rng.choice((1, 1, 2, 2, 3, 4)))]


def _draw(rng: random.Random, target: str, fault: str) -> PlannedFault:
    # Few calls of a process that lives briefly; many of a service that all use.
    most = {
        "driver": 14,
        "rank": 24,
        "heartbeat": 8,
        "dispatcher": 120,
        "standby": 8,
        "ray": 40,
        "storage": 30,
    }.get(target, 250)
    return PlannedFault(
        target=target,
        fault=fault,
        at_call=rng.randint(1, most),
        is_after=rng.random() < 0.5,
        lasts_s=rng.choice((5.0, 20.0, 40.0, 150.0)),
    )
