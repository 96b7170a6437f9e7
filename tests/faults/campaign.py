"""Runs of the campaign by seed, for the tests and for `replay`."""

from collections import Counter
from pathlib import Path
from typing import Any

import redis

from faults.plan import APPLICABLE, FAULTS, TARGETS
from faults.world import World


def connect(socket: Path) -> Any:
    """Connect to the campaign's Redis, with a second client for what is not text."""
    address: Any = {"unix_socket_path": str(socket), "single_connection_client": True}
    client: Any = redis.Redis(decode_responses=True, **address)
    client.bytes_client = redis.Redis(**address)
    return client


def run_seed(client: Any, seed: int) -> World:
    """Run one seed. Returns the world, with its violations."""
    world = World(client, seed=seed)
    world.run()
    return world


def print_cells(cells: Counter[tuple[str, str]]) -> None:
    """Print how often each fault struck each target; `-` where it does not apply."""
    print(f"{'':14}" + "".join(f"{target:>11}" for target in TARGETS))
    for fault in FAULTS:
        row = (str(cells[target, fault]) if fault in APPLICABLE[target] else "-" for target in TARGETS)
        print(f"{fault:14}" + "".join(f"{text:>11}" for text in row))
