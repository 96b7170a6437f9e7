"""What the handlers of all requests share: the queue, the logins, and threads for calls that block."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from aiohttp import web

from bertjobs.jobs.store.connection import Connection, open_connection
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.jobs.store.page_store import PageStore
from bertjobs.jobs.store.token_store import TokenStore
from bertjobs.settings import Settings
from bertjobs.storage import StorageRoots
from bertjobs.web.identity import FailureLimit, LocalToken, Logins
from bertjobs.web.job_index import JobIndex
from bertjobs.web.security import PublicAddress

P = ParamSpec("P")
T = TypeVar("T")
_NUM_THREADS = 6


@dataclass(kw_only=True)
class Services:
    """The parts of one server."""

    given: Settings
    """As the user gave them: without addresses where the stack is embedded."""
    settings: Settings
    """With the addresses of Redis and, where it runs, of Ray's dashboard."""
    public: PublicAddress
    connection: Connection
    logins: Logins
    failures: FailureLimit = field(default_factory=FailureLimit)
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="bertjobs-web")
    )

    def __post_init__(self) -> None:
        self.store = JobStore(self.connection)
        self.page = PageStore(self.connection)
        self.index = JobIndex(self.page)
        self.roots = StorageRoots(self.given.allowed_storage)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what blocks in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, partial(call, *args, **kwargs))

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.connection.close()


SERVICES = web.AppKey("services", Services)


def open_services(
    settings: Settings, *, given: Settings | None = None, public: PublicAddress, local: LocalToken | None
) -> Services:
    """Connect to Redis. Raises: ConfigError, QueueError: as `open_connection`."""
    connection = open_connection(settings)
    return Services(
        given=given or settings,
        settings=settings,
        public=public,
        connection=connection,
        logins=Logins(TokenStore(connection), local=local),
    )
