"""How fast the page of `bertjobs web` is, and what it costs: `python tests/benchmarks/bench_web.py`.

A Redis of its own with many waiting jobs and a played cluster full of running ones; the server in a process
of its own. Measures the first page with its files, lists that are filtered, sorted and searched, the time
until an open page is told of a step, the server's memory with 50 open streams, the share of Redis' time that
they take, and passes of a dispatcher in turn with and without them. `--jobs` and `--nodes` make it smaller.
"""

import argparse
import asyncio
import contextlib
import gzip
import http.client
import json
import multiprocessing
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
from bench_dispatcher import Bench, lease_of, median, row, turn_after_changes

from bertjobs.errors import LeaseLost
from bertjobs.jobs.dispatcher.loop import tune_garbage_collector
from bertjobs.jobs.store.job_store import JobStore, connect
from bertjobs.settings import Settings
from bertjobs.web.identity import LocalToken
from bertjobs.web.security import PublicAddress
from bertjobs.web.server import serve
from redis_process import running_redis

TOKEN = "secret"
NUM_STREAMS = 50
ROUNDS = 8


def run_server(settings: Settings, ports: Any) -> None:
    """Serve, as `bertjobs web` does."""
    local = LocalToken("ada")
    local.text = TOKEN
    public = PublicAddress.of(host="127.0.0.1", url=None)
    serve(settings, host="127.0.0.1", port=0, public=public, local=local, announce=lambda _, p: ports.put(p))


def run_streams(port: int, paths: list[str], opened: Any) -> None:
    """Hold streams open, as pages do."""

    async def listen(client: aiohttp.ClientSession, path: str) -> None:
        async with client.get(f"http://127.0.0.1:{port}{path}") as response:
            opened.put(response.status)
            async for _ in response.content.iter_any():
                pass

    async def listen_to_all() -> None:
        headers, timeout = {"Authorization": f"Bearer {TOKEN}"}, aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as client:
            await asyncio.gather(*(listen(client, path) for path in paths))

    asyncio.run(listen_to_all())


class Page:
    """What a browser asks the server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def get(self, path: str) -> bytes:
        """Return what travels: compressed, as a browser takes it."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Accept-Encoding": "gzip"}
        self._connection.request("GET", path, headers=headers)
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == 200, (path, body)
        return body

    def first_page(self) -> tuple[int, int]:
        """Fetch the page, its files one after the other, and the first jobs; return requests and bytes."""
        index = self.get("/")
        files = set(re.findall(r"(?:href|src)=\"(static/[^\"]+)\"", index.decode()))
        todo, size = list(files), len(index)
        while todo:
            name = todo.pop()
            body = self.get(f"/{name}")
            size += len(body)
            if name.endswith(".js"):
                folder = name.rpartition("/")[0]
                for imported in re.findall(rb"from\s+[\"'](\.[^\"']+)[\"']", body):
                    path = os.path.normpath(f"{folder}/{imported.decode()}")
                    if path not in files:
                        files.add(path)
                        todo.append(path)
        for path in ("/api/v1/session", "/api/v1/jobs?limit=50"):
            size += len(self.get(path))
        return len(files) + 3, size


@contextlib.contextmanager
def process(target: Any, *args: Any) -> Iterator[multiprocessing.Process]:
    """Run a function in a process of its own; end it after the block."""
    started = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
    started.start()
    try:
        yield started
    finally:
        started.terminate()
        started.join()


def delays_ms(bench: Bench, page: Page) -> list[float]:
    """Return the time from a driver's report of a step until the queue's stream tells of it."""
    job = running(bench)[0]
    job_id, lease = job.removeprefix("bj-").rpartition("-a")[0], lease_of(bench.store, job)
    connection = http.client.HTTPConnection("127.0.0.1", page.port)
    connection.request("GET", "/api/v1/events", headers={"Authorization": f"Bearer {TOKEN}"})
    stream, took = connection.getresponse(), []
    for step in range(100, 120):
        reported = time.perf_counter()
        lease.report(progress={"step": step})
        for line in iter(stream.readline, b""):
            if line.startswith(b"data: ") and b'"jobs"' in line:
                jobs = {found["id"]: found for found in json.loads(line[6:])["jobs"]}
                if jobs.get(job_id, {}).get("progress", {}).get("step") == step:
                    break
        took.append(1e3 * (time.perf_counter() - reported))
        time.sleep(0.013 * (step % 17))  # not in step with the server's turns
    connection.close()
    return took


def running(bench: Bench) -> list[str]:
    """Return the names of the attempts that run."""
    return [name for name, job in bench.ray.jobs.items() if job.status == "RUNNING"]


def redis_share(bench: Bench, *, for_s: float) -> float:
    """Return the share of one core that Redis uses while nobody but the page's server asks it."""
    client = bench.store.connection.client

    def used_s() -> float:
        found: Any = client.info("cpu")
        return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])

    before, began = used_s(), time.monotonic()
    time.sleep(for_s)
    return (used_s() - before) / (time.monotonic() - began)


def resident_mb(pid: int | None) -> float:
    """Return what of a process lies in memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def timed_ms(call: Any) -> float:
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


def reporting(store: JobStore, names: list[str], stop: threading.Event) -> None:
    """Let some drivers report a step a second."""
    leases, step = [lease_of(store, name) for name in names], 1000
    while not stop.wait(1.0):
        step += 1
        for lease in leases:
            with contextlib.suppress(LeaseLost):  # a job that a pass has ended
                lease.report(progress={"step": step})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the page's server.")
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs that wait")
    parser.add_argument("--nodes", type=int, default=50, help="nodes of 8 GPUs")
    options = parser.parse_args()
    tune_garbage_collector()
    print(f"machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    with running_redis() as redis:
        bench = Bench(connect(redis.settings()), num_nodes=options.nodes)
        bench.fill(num_waiting=options.jobs)
        bench.hear()
        print(f"{bench.num_waiting()} jobs wait, {len(running(bench))} run")
        ports = multiprocessing.get_context("spawn").Queue()
        with process(run_server, redis.settings(), ports) as server:
            page = Page(ports.get(timeout=60))
            measure_lists(page)
            row("server's memory, MB, nobody connected", resident_mb(server.pid))
            measure_delays(bench, page)
            measure_streams(bench, page, server.pid, redis.settings())


def measure_lists(page: Page) -> None:
    """Measure what a page fetches."""
    first = [timed_ms(page.first_page) for _ in range(5)]
    num_requests, size = page.first_page()
    row(f"first page, {num_requests} requests one after the other, ms: median", median(first), "below 300")
    row("                                              first time", first[0], "below 300")
    row("    bytes that travel", size)
    rows = page.get("/api/v1/jobs?limit=50")
    row("    of these the first 50 jobs", len(rows))
    row("    which are, before compression", len(gzip.decompress(rows)))
    for what, query in {
        "the first 50": "",
        "page 150": "&offset=7450",
        "by name": "&sort=name",
        "by place in the queue": "&sort=place",
        "of one user": "&user=user3",
        "that contain a text": "&q=user7",
    }.items():
        times = [timed_ms(lambda query=query: page.get(f"/api/v1/jobs?limit=50{query}")) for _ in range(9)]
        row(f"list, ms: {what}", median(times))


def measure_delays(bench: Bench, page: Page) -> None:
    took = delays_ms(bench, page)
    row("from a step to its event, ms: median", median(took), "below 1000")
    row("                              slowest", max(took), "below 1000")


def measure_streams(bench: Bench, page: Page, server_pid: int | None, settings: Settings) -> None:
    """Measure what open pages cost: half of them show the queue, half a job each."""
    half = NUM_STREAMS // 2
    opened = multiprocessing.get_context("spawn").Queue()
    alone, beside, share, memory_mb = [], [], 0.0, 0.0
    store = connect(settings)
    idle = redis_share(bench, for_s=5)
    for number in range(ROUNDS):
        # Those of the round before may have ended: their streams would be closed.
        names = running(bench)[:half]
        jobs = [name.removeprefix("bj-").rpartition("-a")[0] for name in names]
        paths = ["/api/v1/events"] * half + [f"/api/v1/jobs/{job}/events" for job in jobs]
        stop = threading.Event()
        # It reports in both halves: it shares this process with the dispatcher, and must not count as pages.
        reporter = threading.Thread(target=reporting, args=(store, names, stop))
        reporter.start()
        alone += [turn_after_changes(bench) for _ in range(5)]
        with process(run_streams, page.port, paths, opened):
            assert [opened.get(timeout=60) for _ in paths] == [200] * NUM_STREAMS
            time.sleep(1.0)
            if number == ROUNDS - 1:
                share = redis_share(bench, for_s=10) - idle
                memory_mb = resident_mb(server_pid)
            beside += [turn_after_changes(bench) for _ in range(5)]
        stop.set()
        reporter.join()
        time.sleep(1.0)
    row(f"server's memory, MB, {NUM_STREAMS} open streams", memory_mb)
    row(f"Redis' time for {NUM_STREAMS} open streams, % of a core", 100 * share)
    row("dispatcher's pass with 40 changes, ms: median without pages", 1e3 * median(alone))
    row(f"                                       with {NUM_STREAMS} open streams", 1e3 * median(beside))
    row("    more, %", 100 * (median(beside) / median(alone) - 1), "below 5")


if __name__ == "__main__":
    main()
