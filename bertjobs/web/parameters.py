"""Values of a query, read and checked."""

from collections.abc import Iterable

from bertjobs.jobs.job import State, is_job_id
from bertjobs.web.answers import ApiError


def int_in(text: str | None, low: int, high: int, *, default: int, name: str) -> int:
    """Read a whole number. Raises: ApiError: it is none, or out of bounds."""
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ApiError(400, "BadRequest", f"{name}={text} is not a whole number from {low} to {high}")
    return value


def states_of(texts: Iterable[str]) -> list[State]:
    """Read names of states. Raises: ApiError: there is no such state."""
    return [_state(text) for text in texts]


def _state(text: str) -> State:
    try:
        return State(text.upper())
    except ValueError as e:
        hint = f"Known are {', '.join(map(str, State))}."
        raise ApiError(400, "BadRequest", f"state={text} is unknown", hint=hint) from e


def job_ids(given: object, *, most: int) -> list[str]:
    """Read ids of jobs, which have to be whole: what is changed is named in full.

    Raises: ApiError: not a list of 1 to `most` ids.
    """
    if not isinstance(given, list) or not 1 <= len(given) <= most:
        raise ApiError(400, "BadRequest", f"`jobs` has to be a list of 1 to {most} ids")
    for job_id in given:
        if not is_job_id(job_id):
            raise ApiError(400, "BadRequest", f"{str(job_id)[:40]!r} is not the id of a job")
    return list(dict.fromkeys(given))
