"""Checks that run on every node of Ray: storage, Redis and code as that node sees them."""

import json
import shlex
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from bertjobs import __version__
from bertjobs.errors import BertjobsError, StorageError
from bertjobs.jobs.ray.api import RayApi
from bertjobs.jobs.scheduling.sizing import count_of
from bertjobs.jobs.store.records import DriverLaunch
from bertjobs.jobs.uploads import uploads_of
from bertjobs.runs.node_probe import MARK
from bertjobs.stack.doctor.check import Check, broken, ok, warning
from bertjobs.stack.doctor.service_checks import check_clock

TIMEOUT_S = 90.0
"""Of a Ray Job that starts a process on every node."""


def check_storage_here(storage: str) -> Check:
    """Check that this user, on this machine, can send input files to the storage."""
    try:
        uploads_of(storage).check_writable()
    except StorageError as e:
        return broken("storage", e.message, e.hint)
    return ok("storage", f"{storage} can be written from here")


def check_nodes(ray: RayApi, *, storage: str, drivers: DriverLaunch) -> Iterator[Check]:
    """Run the probe on every node as drivers are run there, and turn its results into checks."""
    try:
        log = probe_nodes(ray, storage=storage, drivers=drivers)
    except BertjobsError as e:
        yield broken("nodes", e.message, e.hint or "See Ray's dashboard.")
        return
    answers = [json.loads(line.removeprefix(MARK)) for line in log.splitlines() if line.startswith(MARK)]
    if not answers:
        tail = " ".join(log.split())[-300:] or "nothing"
        remedy = (
            f"Install bertjobs on Ray's nodes for {drivers.python}, or set BERTJOBS_NODE_PYTHON where the "
            "dispatcher runs."
        )
        yield broken("nodes", f"the job that checks them could not run: {tail}", remedy)
        return
    yield from checks_of(answers, storage=storage)


def checks_of(answers: Sequence[dict[str, Any]], *, storage: str) -> Iterator[Check]:
    """Turn the results of the nodes into checks: one for each problem, with the node's address."""
    answered = [answer for answer in answers if "error" not in answer]
    for answer in answers:
        if "error" in answer:
            yield broken("nodes", f"{answer['node']}: {answer['error']}", "See Ray's log there.")
    wrong = [check for answer in answered for check in _of_node(answer)]
    yield from wrong
    if answered:
        furthest = max(answered, key=lambda answer: abs(answer["ahead_s"]))
        yield check_clock(f"node {furthest['node']}", furthest["ahead_s"])
    if len(answered) == len(answers) and not any(check.verdict == "broken" for check in wrong):
        found = f"{count_of(len(answers), 'node')}: {storage} can be written, and Redis knows the driver"
        yield ok("nodes", found)


def _of_node(answer: dict[str, Any]) -> Iterator[Check]:
    node, own_address = f"node {answer['node']}", answer["own_address"]
    if answer["storage"]:
        remedy = "Mount the same storage on every node, or set BERTJOBS_STORAGE to an object store."
        yield broken("storage", f"from {node}: {answer['storage']}", remedy)
    if answer["redis"]:
        remedy = "Set BERTJOBS_REDIS_USER, ..._PASSWORD_FILE and ..._CA_FILE on the node; see cluster/."
        yield broken("redis rights", f"from {node}: {answer['redis']}", remedy)
    if answer["version"] != __version__:
        found = f"{node} has bertjobs {answer['version']}, we are {__version__}"
        yield broken("nodes", found, "Install the same version everywhere.")
    if own_address.startswith("127.") and not answer["node"].startswith("127."):
        found = f"{node} resolves its own name to {own_address}: other nodes cannot reach its CPU workers"
        remedy = "Map its host name to its address in /etc/hosts, or set GLOO_SOCKET_IFNAME there."
        yield warning("nodes", found, remedy)


def probe_nodes(ray: RayApi, *, storage: str, drivers: DriverLaunch) -> str:
    """Run the probe as a Ray Job. Returns its log. Raises: RayUnreachable, RayRefused."""
    job = f"bj-doctor-{uuid.uuid4().hex[:8]}"
    ray.start(
        job,
        entrypoint=f"{shlex.quote(drivers.python)} -m bertjobs.runs.node_probe {shlex.quote(storage)}",
        env=drivers.env,
        metadata={"bertjobs": "doctor"},
    )
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        found = ray.job(job)
        if found is None or found.has_ended:
            return b"".join(ray.log(job)).decode(errors="replace") or (found.message if found else "")
        time.sleep(0.3)
    ray.stop(job)
    return f"no answer within {TIMEOUT_S:.0f} s"
