"""One run of the campaign: the real scripts on a real Redis, the real dispatcher and the real leases in
virtual time, with Ray, storage and users around them, and faults from a plan.

Every call to Redis, Ray or storage passes through `World.call`, where a fault may strike before or after its
effect. A paused process is a call that does not return while all others go on.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

from bertjobs.errors import BertjobsError, StorageError
from bertjobs.jobs.driver import session as session_module
from bertjobs.jobs.driver.session import JobSession
from bertjobs.jobs.ray.api import RayJob, RayUnreachable
from bertjobs.jobs.scheduling.types import Cluster, Node
from bertjobs.jobs.store.connection import RedisDown
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.runs import driver as real_driver
from bertjobs.storage import JobDir, StoredFile
from faults.journal import Journal
from faults.plan import SERVICES, PlannedFault, draw_faults
from faults.processes import (
    LEASE_S,
    DispatcherProcess,
    DriverProcess,
    Killed,
    Process,
    RankKilled,
    Task,
)
from faults.virtual_time import VirtualClock, VirtualConnection, patched_clocks

T = TypeVar("T")
NUM_CPUS = 2
FAULTS_END_S = 150.0
"""Users come and faults begin before this time; afterwards everything must settle."""
SETTLED_BY_S = 3000.0


class FakeRay:
    """Ray's head as the dispatcher sees it, and its own poller."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._jobs: dict[str, RayJob] = {}
        self.drivers: dict[str, DriverProcess] = {}

    def cluster(self) -> Cluster:
        return Cluster(nodes=(Node(id="n1", cpus=NUM_CPUS, gpus=0),))

    def watch(self, submission_ids: Collection[str]) -> None:
        pass

    def start(self, submission_id: str, *, entrypoint: str, **_: Any) -> None:
        def effect() -> None:
            if submission_id not in self._jobs:
                *_, job_id, attempt, token = entrypoint.split()
                self._jobs[submission_id] = RayJob(status="RUNNING", message="")
                driver = DriverProcess(self._world, job_id=job_id, attempt=int(attempt), token=int(token))
                self.drivers[submission_id] = driver
                self._world.add(driver)
                self._world.journal.submitted(driver)

        try:
            self._world.call("ray", "start", effect)
        except RayUnreachable:  # as RayApi.start: the request may have been carried out
            if self.job(submission_id) is None:
                raise

    def job(self, submission_id: str) -> RayJob | None:
        return self._world.call("ray", "job", lambda: self._describe(submission_id))

    def _describe(self, submission_id: str) -> RayJob | None:
        job, driver = self._jobs.get(submission_id), self.drivers.get(submission_id)
        if job is None or not job.has_ended or driver is None:
            return job
        is_reached = self._world.now >= driver.cut_until["ray"]  # of a node that is cut off it calls all dead
        return replace(job, has_actors=driver.is_alive and driver.has_workers and is_reached)

    def living(self, job_id: str) -> list[DriverProcess]:
        """Return the drivers of a job whose workers Ray knows to live."""
        found = ((name, driver) for name, driver in self.drivers.items() if driver.job_id == job_id)
        return [
            driver
            for name, driver in found
            if name in self._jobs and driver.is_alive and driver.has_workers and not driver.cut_until["ray"]
        ]

    def stop(self, submission_id: str) -> None:
        def effect() -> None:
            driver = self.drivers.get(submission_id)
            if submission_id in self._jobs and driver is not None and driver.is_alive:
                if self._world.now < driver.cut_until["ray"]:
                    return
                driver.terminate()
                self._world.add(
                    Task(self._world, lambda: driver.killed() if driver.is_alive else None), delay_s=3.0
                )

        self._world.call("ray", "stop", effect)

    def log(self, submission_id: str) -> Iterator[bytes]:
        yield b""

    def driver_exited(self, driver: DriverProcess) -> None:
        submission_id = f"bj-{driver.job_id}-a{driver.attempt}"
        if self.drivers.get(submission_id) is driver and submission_id in self._jobs:
            code = driver.exit_code
            status = "SUCCEEDED" if code == 0 else "FAILED"
            self._jobs[submission_id] = RayJob(status=status, message="", exit_code=code)

    def restart(self, rng: random.Random) -> None:
        """Forget all jobs; a driver may live on for a while."""
        self._jobs = {}
        for driver in self.drivers.values():
            if driver.is_alive and rng.random() < 0.7:
                driver.killed()

    def call_all_failed(self) -> None:
        """Lose contact with the jobs, which live on."""
        for submission_id, job in self._jobs.items():
            if not job.has_ended:
                self._jobs[submission_id] = RayJob(status="FAILED", message="monitor", exit_code=None)


class World:
    """One run. `violations` is empty where every invariant held."""

    def __init__(self, client: Any, *, seed: int, faults: list[PlannedFault] | None = None) -> None:
        self.client = client
        self.seed = seed
        self.rng = random.Random(seed)
        self.faults = draw_faults(self.rng) if faults is None else faults
        self.now = 0.0
        self.violations: list[str] = []
        self.points: Counter[tuple[str, str, str]] = Counter()
        self.trace: list[str] = []
        self.num_dispatchers = 0
        self.files: dict[str, bytes] = {}
        self._raw = VirtualConnection(client, self)
        self.store = JobStore(self._raw)
        self.journal = Journal(self)
        self.ray = FakeRay(self)
        self._processes: list[Process] = []
        self._busy: list[Process] = []
        self._num_service_calls: Counter[str] = Counter()
        self._down: dict[str, tuple[float, str]] = {}
        self._num_ids = 0
        self._undrain_at = float("inf")
        self._snapshots: dict[float, Any] = {}

    def run(self) -> list[str]:
        """Run until everything has settled. Returns the violations."""
        self.client.flushdb()
        with self._patched():
            self._add_users()
            self.add(DispatcherProcess(self, "dispatcher", next_at=0.1))
            self.add(DispatcherProcess(self, "standby", next_at=1.1))
            while self.now < SETTLED_BY_S:
                self.run_until(self.now + 10.0)
                if self.now > FAULTS_END_S and self._is_settled():
                    break
            self.journal.check_end()
        return self.violations

    def violate(self, text: str) -> None:
        self.violations.append(f"{self.now:.1f} s: {text}")

    def note(self, text: str) -> None:
        self.trace.append(f"{self.now:7.1f}  {text}")

    # -- time and processes

    def add(self, process: Process, *, delay_s: float | None = None) -> None:
        if delay_s is not None:
            process.next_at = self.now + delay_s
        self._processes.append(process)

    def start_thread(self, call: Callable[[], None]) -> None:
        self.add(Task(self, call))

    def run_until(self, end: float) -> None:
        """Step all processes that are not inside a call, in the order of their times."""
        while True:
            ready = [p for p in self._processes if p.is_alive and p not in self._busy and p.next_at <= end]
            if not ready:
                break
            process = min(ready, key=lambda p: p.next_at)
            self.now = max(self.now, process.next_at)
            self._step(process)
        self._processes = [p for p in self._processes if p.is_alive]
        self.now = max(self.now, end)

    def _step(self, process: Process) -> None:
        self._busy.append(process)
        try:
            process.step()
        except Killed:
            process.killed()
        except Exception as e:  # no fault of the plan raises what the product does not expect
            self.violate(f"{process.kind}: {type(e).__name__}: {e}")
            process.killed()
        finally:
            self._busy.pop()
        self.journal.look()

    def sleep(self, seconds: float) -> None:
        self.run_until(self.now + seconds)
        self._die_if_killed()

    def _die_if_killed(self) -> None:
        if self._busy and not self._busy[-1].is_alive:
            raise Killed  # while it slept

    # -- effects and faults

    def call(self, service: str, operation: str, effect: Callable[[], T], *, is_write: bool = True) -> T:
        """Carry out one effect of the process that is running, with the faults that are due."""
        if not self._busy:
            return effect()
        process = self._busy[-1]
        self._die_if_killed()
        process.num_calls += 1
        self._num_service_calls[service] += 1
        fault = self._due(process, service)
        if fault is not None:
            where = f"{service}.{operation}"
            self.points[process.kind, fault.fault, f"{'after' if fault.is_after else 'before'} {where}"] += 1
            self.note(
                f"{fault.target}: {fault.fault} at {where} of {process.kind} (lasts {fault.lasts_s:g} s)"
            )
        if fault is not None and not fault.is_after:
            self._strike(fault, process, service)
        self._check_reachable(process, service, is_write=is_write)
        if fault is not None and fault.fault == "duplicate":
            effect()
        answer = effect()
        if fault is not None and fault.is_after:
            self._strike(fault, process, service)
            self._check_reachable(process, service, is_write=False)
        if fault is not None and fault.fault == "lost answer":
            raise _error(service)
        return answer

    def _due(self, process: Process, service: str) -> PlannedFault | None:
        if self.now > FAULTS_END_S:
            return None
        for fault in self.faults:
            counter = self._num_service_calls[service] if fault.target == service else process.num_calls
            is_hit = fault.target in (service, process.kind) and counter >= fault.at_call
            if is_hit and not fault.has_happened:
                fault.has_happened = True
                return fault
        return None

    def _strike(self, fault: PlannedFault, process: Process, service: str) -> None:
        if fault.target in SERVICES:
            self._strike_service(fault)
        elif fault.fault == "kill":
            if fault.target == "rank":
                raise RankKilled("A worker was killed")
            raise Killed
        elif fault.fault == "pause":
            self.sleep(2 * LEASE_S + 1)
        elif fault.fault == "slow":
            self._renewing_sleep(process, 20.0)
        elif fault.fault.startswith("cut"):
            for cut in ("redis", "ray"):
                if fault.fault.endswith((cut, "both")):
                    process.cut_until[cut] = self.now + fault.lasts_s
            if isinstance(process, DriverProcess) and not fault.fault.endswith("redis"):
                self.ray.call_all_failed()
            if isinstance(process, DriverProcess) and fault.fault.endswith("both"):
                self.sleep(fault.lasts_s)  # the call hangs with its node, and goes through in the end

    def _renewing_sleep(self, process: Process, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.sleep(2.5)
            if isinstance(process, DispatcherProcess):
                process.renew()

    def _strike_service(self, fault: PlannedFault) -> None:
        service, kind = fault.target, fault.fault
        if kind == "slow":
            self.sleep(20.0)
        elif kind.startswith("rollback"):
            self._roll_back(1.0 if "1 s" in kind else 60.0)
        elif service == "ray" and kind == "kill":
            self.ray.restart(self.rng)
            self._down[service] = (self.now + 10.0, kind)
        elif service == "ray" and kind == "cut from both":
            self.ray.call_all_failed()
        elif kind != "lost answer":
            lasts_s = 3.0 if kind == "kill" else 2 * LEASE_S if kind == "pause" else fault.lasts_s
            self._down[service] = (self.now + lasts_s, kind)

    def _check_reachable(self, process: Process, service: str, *, is_write: bool) -> None:
        until, kind = self._down.get(service, (0.0, ""))
        if self.now < until and (is_write or kind not in ("read-only", "out of memory")):
            raise _error(service)
        if self.now < process.cut_until.get(service, 0.0):
            raise _error(service)

    # -- what is rolled back

    def _roll_back(self, seconds: float) -> None:
        times = [at for at in self._snapshots if at <= self.now - seconds]
        self.journal.rolled_back()
        dump = self._snapshots[max(times)] if times else []
        self.client.flushdb()
        for key, value in dump:
            self.client.restore(key, 0, value)
        if self.now >= self._undrain_at:  # lost with the rest; whoever opened the queue sees it
            self._add_undrain(delay_s=5.0)

    def _take_snapshot(self) -> None:
        raw = self.client.bytes_client
        keys = sorted(raw.keys("*"))
        pipe = raw.pipeline(transaction=False)
        for key in keys:
            pipe.dump(key)
        self._snapshots[self.now] = list(zip(keys, pipe.execute(), strict=True))

    # -- users

    def _add_users(self) -> None:
        for _ in range(self.rng.randint(2, 4)):
            self.add(_User(self, self._submit), delay_s=self.rng.uniform(0, 40))
        if self.rng.random() < 0.3:
            self.add(_User(self, self._cancel), delay_s=self.rng.uniform(5, 100))
        if self.rng.random() < 0.15:
            begin = self.rng.uniform(5, 60)
            self.add(_User(self, lambda: self._raw.run("drain", is_on=True, by="ada")), delay_s=begin)
            self._undrain_at = begin + 50
            self._add_undrain(delay_s=self._undrain_at)
        if any(fault.fault.startswith("rollback") for fault in self.faults):
            self.add(_Snapshots(self, "snapshots", next_at=0.5))

    def _add_undrain(self, *, delay_s: float) -> None:
        self.add(_User(self, lambda: self._raw.run("drain", is_on=False), is_stubborn=True), delay_s=delay_s)

    def _submit(self) -> None:
        resources = {"gpus": 0, "workers": None, "cpus_per_worker": None}
        job, _ = self.store.submit(
            "finetune", {}, storage="/jobs", user="ada", resources=resources, max_retries=1
        )
        self.journal.accepted(job.id)

    def _cancel(self) -> None:
        if self.journal.jobs:
            job_id = self.rng.choice(list(self.journal.jobs))
            self.journal.cancelled(job_id)
            self.store.cancel(job_id)

    def new_id(self) -> str:
        self._num_ids += 1
        return f"j-{self._num_ids:09d}"

    def _is_settled(self) -> bool:
        return self.journal.all_ended() and not any(
            self.client.exists(key) for key in ("bj:live", "bj:leases", "bj:logs", "bj:delay", "bj:queue")
        )

    # -- the product's surroundings

    def open_session(self, connection: VirtualConnection, driver: DriverProcess) -> JobSession:
        settings = SimpleNamespace(lease_s=LEASE_S, stall_timeout_s=900.0)
        with mock.patch.object(session_module, "open_connection", lambda _: connection):
            return JobSession.open(
                settings,  # type: ignore[arg-type]
                job_id=driver.job_id,
                attempt=driver.attempt,
                token=driver.token,
            )

    @contextmanager
    def _patched(self) -> Iterator[None]:
        clock = VirtualClock(lambda: self.now, self.sleep)
        signals = SimpleNamespace(signal=lambda *_: None, SIGTERM=None, SIG_IGN=None)
        with ExitStack() as patches:
            patches.enter_context(patched_clocks(clock, new_id=self.new_id))
            patches.enter_context(mock.patch.object(real_driver, "signal", signals))
            for name, method in self._storage().items():
                patches.enter_context(mock.patch.object(JobDir, name, method))
            yield

    def _storage(self) -> Mapping[str, Any]:
        files, world = self.files, self

        def write_bytes(job_dir: JobDir, name: str, data: bytes) -> None:
            def effect() -> None:
                files[job_dir.path_of(name)] = data

            world.call("storage", "write", effect)

        def read_bytes(job_dir: JobDir, name: str, *, start: int = 0) -> bytes:
            def effect() -> bytes:
                if (path := job_dir.path_of(name)) not in files:
                    raise StorageError(f"{path} does not exist")
                return files[path][start:]

            return world.call("storage", "read", effect, is_write=False)

        def exists(job_dir: JobDir, name: str) -> bool:
            path = job_dir.path_of(name)
            return world.call(
                "storage",
                "exists",
                lambda: any(found == path or found.startswith(f"{path}/") for found in files),
                is_write=False,
            )

        def listed(job_dir: JobDir, name: str) -> list[str]:
            prefix = job_dir.path_of(name) + "/"
            return world.call(
                "storage",
                "list",
                lambda: sorted({f.removeprefix(prefix).split("/")[0] for f in files if f.startswith(prefix)}),
                is_write=False,
            )

        def list_files(job_dir: JobDir, name: str) -> list[StoredFile]:
            prefix = job_dir.path_of(name).rstrip("/") + "/"
            found = [
                (path.removeprefix(prefix), data) for path, data in files.items() if path.startswith(prefix)
            ]
            described = [StoredFile(name=n, size_bytes=len(data), modified_at_s=0.0) for n, data in found]
            return world.call("storage", "list", lambda: described, is_write=False)

        def remove(job_dir: JobDir, name: str) -> None:
            path = job_dir.path_of(name)

            def effect() -> None:
                for found in [f for f in files if f == path or f.startswith(f"{path}/")]:
                    del files[found]

            world.call("storage", "remove", effect)

        return {
            "write_bytes": write_bytes,
            "read_bytes": read_bytes,
            "exists": exists,
            "list": listed,
            "list_files": list_files,
            "remove": remove,
        }


class _User(Process):
    """Somebody at a command line, once; a stubborn one tries until it works."""

    def __init__(self, world: World, command: Callable[[], Any], *, is_stubborn: bool = False) -> None:
        super().__init__(world, "user", next_at=0.0)
        self._command, self._is_stubborn = command, is_stubborn

    def step(self) -> None:
        try:
            self._command()
        except BertjobsError as e:
            self.world.note(f"the user is told: {e}")
            if self._is_stubborn:
                self.next_at = self.world.now + 5.0
                return
        self.is_alive = False


class _Snapshots(Process):
    """Keeps what Redis may be rolled back to."""

    def step(self) -> None:
        self.next_at = self.world.now + 1.0
        self.is_alive = self.world.now < FAULTS_END_S
        self.world._take_snapshot()


def _error(service: str) -> BertjobsError:
    if service == "redis":
        return RedisDown("Redis is away")
    if service == "ray":
        return RayUnreachable("Ray is away")
    return StorageError("Storage is away", may_pass=True)
