"""`bertjobs doctor`: look at everything that a job will need, start and change nothing, name the remedy.

Parts that are down keep the others from being asked, never from being named: each check is bounded in time.
"""

from collections.abc import Iterator
from dataclasses import replace

from bertjobs.errors import BertjobsError
from bertjobs.jobs.ray.api import RayApi, ray_token
from bertjobs.jobs.ray.code_package import code_to_send
from bertjobs.jobs.store.connection import open_connection
from bertjobs.settings import Settings
from bertjobs.stack import ray_head
from bertjobs.stack.doctor.check import Check, broken, unknown
from bertjobs.stack.doctor.node_checks import check_nodes, check_storage_here
from bertjobs.stack.doctor.service_checks import check_queue, check_ray, check_redis
from bertjobs.stack.home import layout_of
from bertjobs.stack.status import status


def examine(settings: Settings, *, on_nodes: bool = True) -> Iterator[Check]:
    """Look at Redis, dispatcher, Ray and storage, in this order; `on_nodes` asks every node of Ray too."""
    token = _token(settings)
    if settings.is_embedded:
        found = status(settings)
        if found["state"] == "off":
            yield unknown("stack", f"not started under {found['home']}; the first job starts it")
            yield check_storage_here(settings.storage)
            return
        settings = replace(
            settings, redis_url=found["redis_url"], ray_address=found["ray_address"], is_stack_member=True
        )
    yield from _redis_and_dispatcher(settings)
    yield check_storage_here(settings.storage)
    yield from _ray_and_nodes(settings, token=token, on_nodes=on_nodes)


def _redis_and_dispatcher(settings: Settings) -> Iterator[Check]:
    try:
        connection = open_connection(settings)
    except BertjobsError as e:
        yield broken("redis", e.message, e.hint)
        yield unknown("dispatcher", "Redis, which knows it, was not reached")
        return
    try:
        yield from check_redis(connection)
        yield from check_queue(connection)
    except BertjobsError as e:
        yield broken("redis", e.message, e.hint)
    finally:
        connection.close()


def _ray_and_nodes(settings: Settings, *, token: str | None, on_nodes: bool) -> Iterator[Check]:
    if settings.ray_address is None:
        yield broken("ray", "there is no address", "Set BERTJOBS_RAY_ADDRESS, or run `bertjobs cluster up`.")
        return
    ray = RayApi(settings.ray_address, token=token, code=code_to_send(settings))
    checks = list(check_ray(settings.ray_address, ray, token=token))
    yield from checks
    if settings.redis_url is None or any(check.verdict == "broken" for check in checks):
        yield unknown("nodes", "they are asked once Redis and Ray can be")
    elif on_nodes:
        yield from check_nodes(settings, ray)


def _token(settings: Settings) -> str | None:
    return ray_head.read_token(layout_of(settings)) if settings.is_embedded else ray_token()
