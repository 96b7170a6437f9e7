"""Streams of server-sent events: of the whole queue, and of one job."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from bertjobs.jobs.job import Job
from bertjobs.web.answers import ApiError
from bertjobs.web.feed import Feed
from bertjobs.web.security import IDENTITY, identify
from bertjobs.web.services import SERVICES

routes = web.RouteTableDef()

FEED = web.AppKey("feed", Feed)
PING_S = 15.0
"""How often a silent stream says that it lives, and whether its user may still listen is asked."""
MAX_STREAMS = 500


async def feeding(app: web.Application) -> AsyncIterator[None]:
    """Start and end the feed with the application."""
    app[FEED] = Feed(app[SERVICES])
    yield


async def end_streams(app: web.Application) -> None:
    """End all streams when the server stops."""
    app[FEED].close()


@routes.get("/api/v1/events")
async def queue_events(request: web.Request) -> web.StreamResponse:
    """Tell what happens in the queue."""
    return await _stream(request, None)


@routes.get("/api/v1/jobs/{job}/events")
async def job_events(request: web.Request) -> web.StreamResponse:
    """Tell what happens in one job."""
    services = request.app[SERVICES]
    return await _stream(request, await services.run(services.store.get, request.match_info["job"]))


async def _stream(request: web.Request, job: Job | None) -> web.StreamResponse:
    feed = request.app[FEED]
    if feed.num_listeners >= MAX_STREAMS:
        raise ApiError(503, "TooManyStreams", f"{MAX_STREAMS} pages are open already")
    subscriber = await feed.listen(job)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    try:
        await response.prepare(request)
        while True:
            try:
                message = await asyncio.wait_for(subscriber.queue.get(), PING_S)
            except TimeoutError:
                message = b": ping\n\n"
                await _check_login(request)
            if message is None:
                break
            await response.write(message)
    except (ConnectionResetError, ApiError):
        pass  # the page was closed, or its user may no longer listen
    finally:
        feed.leave(subscriber)
    return response


async def _check_login(request: web.Request) -> None:
    services = request.app[SERVICES]
    request[IDENTITY] = await identify(request, services.logins, services.failures, run=services.run)
