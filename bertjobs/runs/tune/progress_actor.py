"""The actor to which the trials of a search report, and from which the driver reads. It takes no CPU.

A module of its own, because it must import neither torch nor Tune: the actor starts while data is read.
"""

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup


class ProgressActor:
    """The latest report of each trial. Use it through `start_progress_actor`."""

    def __init__(self) -> None:
        self._progress: dict[int, dict[str, Any]] = {}
        self._failures: dict[int, tuple[str, str]] = {}
        self._placements: dict[int, PlacementGroup] = {}

    def set_progress(self, number: int, values: dict[str, Any]) -> None:
        self._progress[number] = values

    def progress(self) -> dict[int, dict[str, Any]]:
        return self._progress

    def set_failure(self, number: int, failure: str, message: str) -> None:
        self._failures[number] = (failure, message)

    def take_failure(self, number: int) -> tuple[str, str] | None:
        return self._failures.pop(number, None)

    def set_placement(self, number: int, placement: PlacementGroup) -> None:
        self._placements[number] = placement

    def take_placement(self, number: int) -> PlacementGroup | None:
        return self._placements.pop(number, None)


@dataclass(frozen=True)
class ProgressHandle:
    """The actor, as any process calls it. Trials are known by their number in the search."""

    actor: Any

    def set_progress(self, number: int, values: dict[str, Any]) -> None:
        """Replace a trial's progress; returns without waiting."""
        self.actor.set_progress.remote(number, values)

    def progress(self) -> dict[int, dict[str, Any]]:
        """Return the latest progress of the trials, by number."""
        found: dict[int, dict[str, Any]] = ray.get(self.actor.progress.remote())
        return found

    def set_failure(self, number: int, failure: str, message: str) -> None:
        """Record why a trial failed: failure class and message. Returns when the actor has it."""
        ray.get(self.actor.set_failure.remote(number, failure, message))

    def take_failure(self, number: int) -> tuple[str, str] | None:
        """Return failure class and message once; None where the trial recorded none."""
        found: tuple[str, str] | None = ray.get(self.actor.take_failure.remote(number))
        return found

    def set_placement(self, number: int, placement: PlacementGroup) -> None:
        """Record the placement group of a trial's workers. Returns when the actor has it."""
        ray.get(self.actor.set_placement.remote(number, placement))

    def take_placement(self, number: int) -> PlacementGroup | None:
        """Return the placement group once; None for a trial without a worker group."""
        return ray.get(self.actor.take_placement.remote(number))


def start_progress_actor() -> ProgressHandle:
    """Start the actor; it ends with the driver. If it is killed before, Ray restarts it, empty."""
    return ProgressHandle(
        ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(ProgressActor).remote()
    )
