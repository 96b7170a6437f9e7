"""Whether Ray answers, is the version that our code was made for, has nodes, and asks for a token."""

import re
from collections.abc import Iterator

from bertjobs.errors import BertjobsError
from bertjobs.jobs.ray.api import RayCluster
from bertjobs.jobs.scheduling.sizing import count_of
from bertjobs.jobs.scheduling.types import Cluster
from bertjobs.stack import ray_head
from bertjobs.stack.doctor.check import Check, broken, ok, warning

RAY_SERIES = "2.60"
"""The one that pyproject.toml admits, for places where Ray is not installed; a test compares them."""


def check_ray(address: str, ray: RayCluster, *, token: str | None) -> Iterator[Check]:
    """Look at a Ray; stops at the first thing without which the rest cannot be asked."""
    try:
        version, cluster = ray.version(), ray.cluster()
    except BertjobsError as e:
        yield broken("ray", e.message, e.hint or "See the log of its head.")
        return
    yield check_version(version)
    yield check_nodes(cluster)
    yield check_token(is_open=ray_head.probe(address, token=None) == "up", has_token=token is not None)


def check_version(version: str) -> Check:
    """Compare with ours: what travels between Ray processes is pickled, so they have to be the same."""
    if re.match(re.escape(RAY_SERIES) + r"(\.|$)", version):
        return ok("ray version", version)
    return broken(
        "ray version", f"{version}, ours is {RAY_SERIES}", f"Install ray {RAY_SERIES} on its nodes."
    )


def check_nodes(cluster: Cluster) -> Check:
    """Say what there is to train on."""
    if not cluster.nodes:
        return broken("ray nodes", "none", "Start nodes: `ray start --address=HEAD:6379`, or see cluster/.")
    found = f"{count_of(len(cluster.nodes), 'node')}, {count_of(cluster.cpus, 'CPU')}, "
    return ok("ray nodes", found + count_of(cluster.gpus, "GPU"))


def check_token(*, is_open: bool, has_token: bool) -> Check:
    """See that not everyone who reaches the dashboard can run code there."""
    if is_open:
        remedy = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH on every node, and start Ray again."
        return warning("ray token", "it asks for none: who reaches its dashboard runs code on it", remedy)
    assert has_token, "who has no token was refused before"
    return ok("ray token", "it asks for one, and takes ours")
