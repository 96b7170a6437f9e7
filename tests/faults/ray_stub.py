"""A stub of Ray's REST interface that starts drivers as processes, and has the faults of Ray's head."""

import asyncio
import random
import shlex
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

NUM_CPUS = 8
KILL_AFTER_S = 3.0


@dataclass(kw_only=True)
class StubJob:
    """One Ray Job and the process of its driver."""

    ray_id: str
    process: "subprocess.Popen[bytes]"
    log: Path
    is_called_failed: bool = False
    """Ray's monitor has lost contact with it."""

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None


class RayStub:
    """The server, in a thread of its own from `start` to `close`."""

    def __init__(self, folder: Path, *, command: list[str], env: Mapping[str, str]) -> None:
        """`command` starts a driver; the job, the attempt and the token follow."""
        self._folder, self._command, self._env = folder, command, dict(env)
        self.jobs: dict[str, StubJob] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        """Of all drivers, those that were forgotten too."""
        self.is_away = False
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="ray-stub", daemon=True)

    def start(self) -> str:
        """Start serving. Returns the address."""
        self._thread.start()
        assert self._is_up.wait(timeout=60)
        return f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        """Stop serving, and end what drivers are left."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def living(self) -> "list[subprocess.Popen[bytes]]":
        """Return the drivers that run."""
        with self._lock:
            return [process for process in self.processes if process.poll() is None]

    def restart(self, rng: random.Random) -> None:
        """Forget all jobs, as a head without a store does; most drivers die with it."""
        with self._lock:
            self.jobs = {}
        for process in self.living():
            if rng.random() < 0.7:
                process.kill()

    def call_all_failed(self) -> None:
        """Lose contact with all drivers, which live on."""
        with self._lock:
            for job in self.jobs.values():
                job.is_called_failed = job.is_alive

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._is_up.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._answer])
        app.router.add_get("/api/v0/nodes", self._nodes)
        app.router.add_get("/api/v0/actors", self._actors)
        app.router.add_get("/api/cluster_status", self._status)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get("/api/jobs/{name}", self._job)
        app.router.add_post("/api/jobs/{name}/stop", self._stop)
        app.router.add_get("/api/jobs/{name}/logs", self._log)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._port = runner.addresses[0][1]

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self.is_away:
            raise web.HTTPServiceUnavailable
        return await handler(request)

    async def _nodes(self, _: web.Request) -> web.Response:
        node = {"node_id": "n1", "state": "ALIVE", "resources_total": {"CPU": float(NUM_CPUS)}}
        return web.json_response({"data": {"result": {"result": [node]}}})

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response({"data": {"clusterStatus": None}})

    async def _actors(self, request: web.Request) -> web.Response:
        wanted = request.query.getall("filter_values")[0]
        with self._lock:
            living = [job for job in self.jobs.values() if job.ray_id == wanted and job.is_alive]
        return web.json_response({"data": {"result": {"result": [{"is_detached": False} for _ in living]}}})

    async def _submit(self, request: web.Request) -> web.Response:
        asked: dict[str, Any] = await request.json()
        name = asked["submission_id"]
        with self._lock:
            if name in self.jobs:
                raise web.HTTPInternalServerError(text=f"Job {name} already exists")
            log = self._folder / f"{name}-{len(self.processes)}.log"
            with log.open("wb") as f:
                process = subprocess.Popen(
                    [*self._command, *shlex.split(asked["entrypoint"])[-3:]],
                    env=self._env | asked["runtime_env"]["env_vars"],
                    stdin=subprocess.DEVNULL,
                    stdout=f,
                    stderr=f,
                )
            self.processes.append(process)
            self.jobs[name] = StubJob(ray_id=f"{len(self.processes):08x}", process=process, log=log)
        return web.json_response({"submission_id": name})

    def _find(self, request: web.Request) -> StubJob:
        with self._lock:
            job = self.jobs.get(request.match_info["name"])
        if job is None:
            raise web.HTTPNotFound
        return job

    async def _job(self, request: web.Request) -> web.Response:
        job = self._find(request)
        code = job.process.poll()
        status = "RUNNING" if code is None else "SUCCEEDED" if code == 0 else "FAILED"
        if job.is_called_failed:
            status = "FAILED"
        return web.json_response(
            {"status": status, "message": "", "driver_exit_code": code, "job_id": job.ray_id}
        )

    async def _stop(self, request: web.Request) -> web.Response:
        job = self._find(request)
        if job.is_alive:
            job.process.send_signal(signal.SIGTERM)
            self._loop.call_later(KILL_AFTER_S, job.process.kill)
        return web.json_response({"stopped": True})

    async def _log(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": self._find(request).log.read_text(errors="replace")})
