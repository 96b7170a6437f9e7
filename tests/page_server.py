"""The page's server in a thread of a test, on a port of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from bertjobs.cli.context import current_user
from bertjobs.jobs.store.connection import open_connection
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.web.app import build_app
from bertjobs.web.identity import LocalToken
from bertjobs.web.security import PublicAddress
from bertjobs.web.services import Services, open_services
from redis_process import RedisProcess


@contextmanager
def serving(services: Services) -> Iterator[int]:
    """Serve in a thread; yield the port."""
    loop = asyncio.new_event_loop()
    started: list[web.AppRunner] = []

    async def start() -> int:
        runner = web.AppRunner(build_app(services), access_log=None, shutdown_timeout=0.1)
        started.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(timeout=30)
    finally:
        asyncio.run_coroutine_threadsafe(started[0].cleanup(), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def server_for_commands(
    redis: RedisProcess, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[JobStore]:
    """Serve an empty queue, and let commands reach it through the server only; yield the store behind it."""
    settings = replace(redis.settings(), storage=str(home / "jobs"))
    connection = open_connection(settings)
    connection.client.flushall()
    local = LocalToken(current_user())
    services = open_services(settings, public=PublicAddress.of(host="127.0.0.1", url=None), local=local)
    with serving(services) as port:
        monkeypatch.setenv("BERTJOBS_SERVER", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("BERTJOBS_TOKEN", local.text)
        monkeypatch.delenv("BERTJOBS_REDIS_URL")
        monkeypatch.delenv("BERTJOBS_RAY_ADDRESS")
        yield JobStore(connection)
    connection.close()
