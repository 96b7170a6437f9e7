"""The data of `bertjobs cluster status`: which members run, since when, and whether they answer."""

from typing import Any

from bertjobs.errors import BertjobsError
from bertjobs.jobs.store.job_store import connect
from bertjobs.settings import Settings
from bertjobs.stack import process, ray_head, redis_server
from bertjobs.stack.lifecycle import MEMBERS
from bertjobs.stack.paths import StackPaths, stack_paths
from bertjobs.stack.process import ProcessRecord, read_record


def status(settings: Settings) -> dict[str, Any]:
    """Check every member, and start nothing.

    Returns: mode ("embedded" or "shared"), home, state, redis_url, ray_address, dashboard_url,
    ray_token_file, and per member its state, alive, pid, since, address, log and problem. The state of a
    member is "up", "starting" (it runs and does not answer yet), "down" (it ended by itself; of a shared
    cluster: no dispatcher leads), "off" (not started) or, when shared, "unreachable". The overall state is
    the worst of them, or "partial" where only some members have been started.
    """
    return _embedded(stack_paths(settings)) if settings.is_embedded else _shared(settings)


def ray_access(settings: Settings) -> tuple[str | None, str | None]:
    """Return the present address of Ray's dashboard, None where Ray was never started, and its token, if any.

    Raises: QueueError: the file of a shared Ray's token cannot be read.
    """
    if not settings.is_embedded:
        from bertjobs.jobs.ray.api import ray_token  # 40 ms

        return settings.ray_address, ray_token()
    paths = stack_paths(settings)
    record = read_record(paths.record_file("ray"))
    return (None if record is None else record.address), ray_head.read_token(paths)


def _embedded(paths: StackPaths) -> dict[str, Any]:
    records = {member: read_record(paths.record_file(member)) for member in MEMBERS}
    members = {member: _member(paths, member, record) for member, record in records.items()}
    ray = records["ray"]
    return {
        "mode": "embedded",
        "home": str(paths.home),
        "state": _overall([m["state"] for m in members.values()]),
        "redis_url": redis_server.url_of(paths),
        "ray_address": None if ray is None else ray.address,
        "dashboard_url": None if ray is None else ray.address,
        "ray_token_file": str(paths.ray_token) if paths.ray_token.exists() else None,
        "members": members,
    }


def _member(paths: StackPaths, member: str, record: ProcessRecord | None) -> dict[str, Any]:
    if record is None:
        return _line("off")
    if not record.is_alive:
        last_line = process.tail(record.log, num_lines=1)
        return _line("down", record, problem=f"It ended by itself. The last line of its log: {last_line}")
    return _line("up" if _answers(paths, member, record) else "starting", record)


def _line(state: str, record: ProcessRecord | None = None, **more: Any) -> dict[str, Any]:
    keys = ("pid", "since", "address", "log", "problem")
    found = {} if record is None else process.as_json(record)
    return {"state": state, "alive": state in ("up", "starting"), **dict.fromkeys(keys), **found, **more}


def _answers(paths: StackPaths, member: str, record: ProcessRecord) -> bool:
    if member == "redis":
        return redis_server.answers(paths.redis_socket)
    if member == "ray" and record.address is not None:
        return ray_head.is_ready(record.address, token=ray_head.read_token(paths))
    return True


def _shared(settings: Settings) -> dict[str, Any]:
    redis, dispatcher = _shared_redis_and_dispatcher(settings)
    members = {"redis": redis, "ray": _shared_ray(settings), "dispatcher": dispatcher}
    return {
        "mode": "shared",
        "home": str(settings.home),
        "state": _overall([m["state"] for m in members.values()]),
        "redis_url": settings.redis_url,
        "ray_address": settings.ray_address,
        "dashboard_url": settings.ray_address,
        "ray_token_file": None,
        "members": members,
    }


def _shared_redis_and_dispatcher(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        store = connect(settings)
        try:
            leader = store.dispatcher()
        finally:
            store.close()
    except BertjobsError as e:
        unknown = "Redis, which knows the leader, was not reached."
        return (
            _line("unreachable", address=settings.redis_url, problem=str(e)),
            _line("unreachable", problem=unknown),
        )
    redis = _line("up", address=settings.redis_url)
    if leader is None:
        problem = "None leads: no job is started or supervised. Start `bertjobs dispatcher`."
        return redis, _line("down", problem=problem)
    host, *_ = leader.split(":")
    return redis, _line("up", address=host)


def _shared_ray(settings: Settings) -> dict[str, Any]:
    if settings.ray_address is None:
        return _line("unreachable", problem="BERTJOBS_RAY_ADDRESS is not set.")
    from bertjobs.jobs.ray.api import RayApi  # 40 ms

    try:
        # A Ray that refuses a request without a token is up; only the dispatcher needs the right token.
        RayApi(settings.ray_address, token=None).requires_token()
    except BertjobsError:
        return _line("unreachable", address=settings.ray_address, problem="No Ray dashboard answers there.")
    return _line("up", address=settings.ray_address)


def _overall(states: list[str]) -> str:
    worst = min(states, key=("unreachable", "down", "starting", "off", "up").index)
    return "partial" if worst == "off" and set(states) != {"off"} else worst
