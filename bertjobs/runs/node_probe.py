"""Check every node for `bertjobs doctor`, as a Ray Job: `python -m bertjobs.runs.node_probe STORAGE`.

Prints a line per node, `bertjobs-node` and a JSON object: `node` (its address), `version` and `code` (which
bertjobs, and its path), `storage` and `redis` (what is wrong with them there, or null), `ahead_s` (its clock
against that of Redis), `own_address` (to which its host name resolves there: gloo listens on it).
"""

import json
import logging
import socket
import sys
import time
from pathlib import Path
from typing import Any

import bertjobs
from bertjobs.errors import BertjobsError
from bertjobs.jobs.store.connection import open_connection
from bertjobs.settings import load_settings
from bertjobs.storage import JobDir

MARK = "bertjobs-node"
PATIENCE_S = 30.0
"""How long a node may take to start a process."""


def main(storage: str) -> None:
    """Check every node that is alive and print the results; one that does not answer in time has an error."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    tasks = {
        ray.remote(num_cpus=0, max_retries=0)(probe_node)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False))
        .remote(storage): address
        for node_id, address in addresses.items()
    }
    ray.wait(list(tasks), num_returns=len(tasks), timeout=PATIENCE_S)
    for task, address in tasks.items():
        try:
            found = ray.get(task, timeout=0)
        except ray.exceptions.RayError as e:
            found = {"error": str(e).strip().splitlines()[-1] or type(e).__name__}
        print(MARK, json.dumps({"node": address, **found}))
    ray.shutdown()


def probe_node(storage: str) -> dict[str, Any]:
    """Check the storage, and Redis with the rights that drivers have on this node."""
    code = str(Path(bertjobs.__file__).parent)
    facts = {"version": bertjobs.__version__, "code": code, "own_address": _own_address()}
    return {**facts, "storage": _storage(storage), **_redis()}


def _own_address() -> str:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return ""


def _storage(storage: str) -> str | None:
    try:
        JobDir(storage, ".doctor", is_shared=True).check_writable()
    except BertjobsError as e:
        return str(e)
    return None


def _redis() -> dict[str, Any]:
    try:
        connection = open_connection(load_settings())
        with connection.errors():
            seconds, micros = connection.client.time()
    except BertjobsError as e:
        return {"redis": str(e), "ahead_s": 0.0}
    ahead_s = time.time() - (int(seconds) + int(micros) / 1e6)
    connection.close()
    return {"redis": None, "ahead_s": ahead_s}


if __name__ == "__main__":
    main(sys.argv[1])
