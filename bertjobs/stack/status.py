"""What `bertjobs cluster status` says: which members run, since when, and whether they answer."""

from typing import Any

from bertjobs.errors import BertjobsError
from bertjobs.jobs.store.connection import open_connection
from bertjobs.settings import Settings
from bertjobs.stack import process, ray_head, redis_server
from bertjobs.stack.home import Layout, layout_of
from bertjobs.stack.lifecycle import MEMBERS
from bertjobs.stack.process import Record, read_record


def status(settings: Settings) -> dict[str, Any]:
    """Look at every member and start nothing.

    Returns: mode ("embedded" or "shared"), home, state, redis_url, ray_address, dashboard_url,
    ray_token_file, and per member its state, alive, pid, since, address, log and problem. The state of a
    member is "up", "starting" (it runs and does not answer yet), "down" (it ended by itself), "off" (not
    started) or, when shared, "unreachable"; that of the whole is the worst of them, and "partial" where some
    members were not asked for.
    """
    return _embedded(layout_of(settings)) if settings.is_embedded else _shared(settings)


def _embedded(layout: Layout) -> dict[str, Any]:
    records = {member: read_record(layout.record(member)) for member in MEMBERS}
    members = {member: _member(layout, member, record) for member, record in records.items()}
    ray = records["ray"]
    return {
        "mode": "embedded",
        "home": str(layout.home),
        "state": _whole([m["state"] for m in members.values()]),
        "redis_url": redis_server.url_of(layout),
        "ray_address": None if ray is None else ray.address,
        "dashboard_url": None if ray is None else ray.address,
        "ray_token_file": str(layout.ray_token) if layout.ray_token.exists() else None,
        "members": members,
    }


def _member(layout: Layout, member: str, record: Record | None) -> dict[str, Any]:
    if record is None:
        return _line("off")
    if not record.is_alive:
        said = process.tail(record.log, num_lines=1)
        return _line("down", record, problem=f"It ended by itself. The last line of its log: {said}")
    return _line("up" if _answers(layout, member, record) else "starting", record)


def _line(state: str, record: Record | None = None, **more: Any) -> dict[str, Any]:
    keys = ("pid", "since", "address", "log", "problem")
    found = {} if record is None else process.as_json(record)
    return {"state": state, "alive": state in ("up", "starting"), **dict.fromkeys(keys), **found, **more}


def _answers(layout: Layout, member: str, record: Record) -> bool:
    if member == "redis":
        return redis_server.answers(layout.redis_socket)
    if member == "ray" and record.address is not None:
        return ray_head.is_ready(record.address, token=ray_head.read_token(layout))
    return True


def _shared(settings: Settings) -> dict[str, Any]:
    members = {"redis": _shared_redis(settings), "ray": _shared_ray(settings)}
    return {
        "mode": "shared",
        "home": str(settings.home),
        "state": _whole([m["state"] for m in members.values()]),
        "redis_url": settings.redis_url,
        "ray_address": settings.ray_address,
        "dashboard_url": settings.ray_address,
        "ray_token_file": None,
        "members": members,
    }


def _shared_redis(settings: Settings) -> dict[str, Any]:
    try:
        open_connection(settings).close()
    except BertjobsError as e:
        return _line("unreachable", address=settings.redis_url, problem=str(e))
    return _line("up", address=settings.redis_url)


def _shared_ray(settings: Settings) -> dict[str, Any]:
    if settings.ray_address is None:
        return _line("unreachable", problem="BERTJOBS_RAY_ADDRESS is not set.")
    # One that asks for a token is there; whether ours is right is the dispatcher's to find out.
    if ray_head.probe(settings.ray_address, token=None) == "unreachable":
        return _line("unreachable", address=settings.ray_address, problem="No Ray dashboard answers there.")
    return _line("up", address=settings.ray_address)


def _whole(states: list[str]) -> str:
    worst = min(states, key=("unreachable", "down", "starting", "off", "up").index)
    return "partial" if worst == "off" and set(states) != {"off"} else worst
