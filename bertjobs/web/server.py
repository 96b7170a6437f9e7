"""Run the server until it is told to stop."""

import asyncio
import contextlib
import signal
from collections.abc import Callable

from aiohttp import web

from bertjobs.errors import ConfigError
from bertjobs.settings import Settings
from bertjobs.web.app import build_app
from bertjobs.web.identity import LocalToken
from bertjobs.web.security import PublicAddress
from bertjobs.web.services import open_services

SHUTDOWN_S = 2.0
"""How long open requests may take to end; event streams end at once."""


def serve(
    settings: Settings,
    *,
    given: Settings | None = None,
    host: str,
    port: int,
    public: PublicAddress,
    local: LocalToken | None,
    announce: Callable[[str, int], None],
) -> None:
    """Serve until SIGINT or SIGTERM. `announce` gets host and port once requests are answered.

    Raises: ConfigError: the address is in use or not ours. QueueError: Redis is down.
    """
    services = open_services(settings, given=given, public=public, local=local)
    services.index.refresh()
    asyncio.run(_serve(build_app(services), host=host, port=port, announce=announce))


async def _serve(app: web.Application, *, host: str, port: int, announce: Callable[[str, int], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # aiohttp's access log names whole addresses with their queries; none of ours has a secret, yet it is off.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as e:
            raise ConfigError(
                f"--host {host} --port {port}: {e.strerror or e}",
                hint="Give another `--port`; `--port 0` takes any that is free.",
            ) from e
        with contextlib.suppress(asyncio.CancelledError):
            announce(host, runner.addresses[0][1])
            await stop.wait()
    finally:
        await runner.cleanup()
