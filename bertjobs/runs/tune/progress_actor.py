"""Where the trials of a search write how far they are, and the driver reads it: an actor without CPUs."""

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

Note = dict[str, Any]


class Board:
    """The latest word of each trial. Use it through `open_board`."""

    def __init__(self) -> None:
        self._progress: dict[int, Note] = {}
        self._failures: dict[int, tuple[str, str]] = {}
        self._placements: dict[int, PlacementGroup] = {}

    def put_progress(self, number: int, values: Note) -> None:
        self._progress[number] = values

    def put_failure(self, number: int, word: str, message: str) -> None:
        self._failures[number] = (word, message)

    def progress(self) -> dict[int, Note]:
        return self._progress

    def failure(self, number: int) -> tuple[str, str] | None:
        return self._failures.pop(number) if number in self._failures else None

    def put_placement(self, number: int, placement: PlacementGroup) -> None:
        self._placements[number] = placement

    def placement(self, number: int) -> PlacementGroup | None:
        return self._placements.pop(number) if number in self._placements else None


@dataclass(frozen=True)
class BoardHandle:
    """The board, from any process."""

    actor: Any

    def put_progress(self, number: int, values: Note) -> None:
        """Say how far a trial is; waits for nothing."""
        self.actor.put_progress.remote(number, values)

    def put_failure(self, number: int, word: str, message: str) -> None:
        """Say why a trial failed; it is there when this returns."""
        ray.get(self.actor.put_failure.remote(number, word, message))

    def progress(self) -> dict[int, Note]:
        """Return how far the trials are, by number."""
        return ray.get(self.actor.progress.remote())

    def failure(self, number: int) -> tuple[str, str] | None:
        """Return the word and the sentence of a failure; None where the trial said nothing."""
        return ray.get(self.actor.failure.remote(number))

    def put_placement(self, number: int, placement: PlacementGroup) -> None:
        """Say where a trial's workers are; it is there when this returns."""
        ray.get(self.actor.put_placement.remote(number, placement))

    def placement(self, number: int) -> PlacementGroup | None:
        """Return where a trial's workers are; None for a trial without workers of its own."""
        return ray.get(self.actor.placement.remote(number))


def open_board() -> BoardHandle:
    """Start a board; it ends with the driver. Killed before that it comes back, empty."""
    return BoardHandle(ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board).remote())
