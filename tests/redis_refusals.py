"""Make a real Redis refuse writes, as one does whose memory or disk is full or that lost its replicas."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

REFUSALS = {
    "OOM": ({"maxmemory": "1"}, r"no memory left for writes.*`maxmemory`"),
    "READONLY": (("127.0.0.1", "1"), r"read-only replica.*BERTJOBS_REDIS_URL to the primary"),
    "NOREPLICAS": ({"min-replicas-to-write": "1"}, r"fewer replicas.*`min-replicas-to-write`"),
    "MISCONF": ({"save": "3600 1000"}, r"cannot save to its disk.*Free space"),
}


@contextmanager
def refusing_writes(client: Any, word: str) -> Iterator[str]:
    """Make Redis refuse writes; yields what our error says."""
    options, said = REFUSALS[word]
    if word == "READONLY":
        client.replicaof(*options)
        try:
            yield said
        finally:
            client.replicaof("NO", "ONE")
        return
    before = {name: client.config_get(name)[name] for name in options}
    for name, value in options.items():
        client.config_set(name, value)
    try:
        with failing_bgsave(client) if word == "MISCONF" else nullcontext():
            yield said
    finally:
        for name, value in before.items():
            client.config_set(name, value)


@contextmanager
def failing_bgsave(client: Any) -> Iterator[None]:
    """Let a snapshot fail, because its folder is gone."""
    folder = client.config_get("dir")["dir"]
    with tempfile.TemporaryDirectory(prefix="bj-") as gone:
        client.config_set("dir", gone)
    try:
        client.bgsave()
        wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        yield
    finally:
        client.config_set("dir", folder)
        client.bgsave()
        wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok")


def wait_for(condition: Callable[[], Any]) -> None:
    """Poll another process; the deadline only bounds a failure."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
