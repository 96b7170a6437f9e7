"""`bertjobs doctor`: check everything that a job needs, and name the remedy. Starts and changes nothing.

Where a service is down, the checks that need it are reported as unknown. Every check has a time limit.
"""

from collections.abc import Iterator
from dataclasses import replace

from bertjobs.errors import BertjobsError
from bertjobs.jobs.dispatcher.loop import driver_environment
from bertjobs.jobs.ray.api import RayApi, ray_token
from bertjobs.jobs.ray.code_package import code_to_send
from bertjobs.jobs.store.connection import open_connection
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.jobs.store.records import DriverLaunch
from bertjobs.settings import Settings
from bertjobs.stack import ray_head
from bertjobs.stack.doctor.check import Check, broken, unknown
from bertjobs.stack.doctor.node_checks import check_nodes, check_storage_here
from bertjobs.stack.doctor.service_checks import check_queue, check_ray, check_redis
from bertjobs.stack.paths import stack_paths
from bertjobs.stack.status import status


def examine(settings: Settings, *, on_nodes: bool = True) -> Iterator[Check]:
    """Check Redis, dispatcher, storage and Ray, in this order; with `on_nodes` also every node of Ray."""
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
        yield unknown("dispatcher", "Redis, which knows the leader, was not reached")
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
    checks = list(check_ray(ray, has_token=token is not None))
    yield from checks
    if settings.redis_url is None or any(check.verdict == "broken" for check in checks):
        yield unknown("nodes", "not checked, because Redis or Ray is not reachable")
    elif on_nodes:
        try:
            drivers = driver_launch(settings)
        except BertjobsError as e:
            yield broken("nodes", f"how drivers are started is not known: {e.message}", e.hint)
            return
        yield from check_nodes(ray, storage=settings.storage, drivers=drivers)


def driver_launch(settings: Settings) -> DriverLaunch:
    """Return how drivers are started: as the dispatcher has published, for this machine may be no node.

    Raises: QueueError: Redis is down, or what it holds is not valid.
    """
    connection = open_connection(settings)
    try:
        published = JobStore(connection).drivers()
    finally:
        connection.close()
    return published or DriverLaunch(python=settings.node_python, env=driver_environment(settings))


def _token(settings: Settings) -> str | None:
    return ray_head.read_token(stack_paths(settings)) if settings.is_embedded else ray_token()
