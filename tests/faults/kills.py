"""The second layer: real processes and random kills. `python -m tests.faults.kills 1000 [SEED]`.

Two dispatchers, a redis-server, drivers with their heartbeats; Ray is a stub that starts the drivers, which
train nothing. What was acknowledged is written down outside Redis, and the invariants over it are checked
when the kills have stopped and everything has settled.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import redis

from bertjobs.errors import BertjobsError
from bertjobs.jobs.job import State
from bertjobs.jobs.store.connection import open_connection
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.settings import load_settings
from bertjobs.storage import JobDir
from faults.ray_stub import RayStub
from faults.stand_in_driver import NUM_STEPS
from redis_process import RedisProcess

ROOT = Path(__file__).parents[2]
LEASE_S = 3.0
STOPPED_DISPATCHER_S = 12.0
"""Longer than the dispatchers' lease of 10 s."""
MAX_UNFINISHED = 6
SETTLED_BY_S = 400.0
"""Only bounds a failure."""
TERMINAL = frozenset(str(state) for state in State if state.is_terminal)
KEYS = ("bj:live", "bj:leases", "bj:logs", "bj:delay", "bj:queue")


class Cluster:
    """All processes of one run, its users, and its journal."""

    def __init__(self, folder: Path, *, seed: int, step_s: float = 0.3) -> None:
        self.rng = random.Random(seed)
        self.violations: list[str] = []
        self.kills: Counter[str] = Counter()
        self.num_given_up = 0
        self._folder = folder
        self._storage = folder / "jobs"
        self.redis = RedisProcess(folder)
        self._fails, self._ends = folder / "storage-fails", folder / "ends.jsonl"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("BERTJOBS_")} | {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "BERTJOBS_HOME": str(folder / "home"),
            "BERTJOBS_STORAGE": str(self._storage),
            "BERTJOBS_REDIS_URL": self.redis.url,
            "BERTJOBS_LEASE_S": str(LEASE_S),
            "RAY_AUTH_MODE": "disabled",
            "FAULTS_STORAGE_FAILS": str(self._fails),
            "FAULTS_JOURNAL": str(self._ends),
            "FAULTS_STEP_S": str(step_s),
        }
        command = [sys.executable, "-m", "faults.stand_in_driver"]
        self.ray = RayStub(folder, command=command, env=self.env)
        self._dispatchers: list[subprocess.Popen[bytes]] = []
        self.accepted: dict[str, float] = {}
        self.seen: dict[str, str] = {}
        """The ends that a user has seen."""
        self._lost: set[str] = set()
        self._cuts: list[float] = []
        self._sizes: deque[tuple[float, int]] = deque(maxlen=200)
        self._timers: list[threading.Timer] = []
        self._down = threading.Lock()

    def start(self) -> None:
        """Start everything."""
        self.redis.start()
        self.env["BERTJOBS_RAY_ADDRESS"] = self.ray.start()
        self.settings = load_settings(self.env)
        self.connection = open_connection(self.settings)
        self.store = JobStore(self.connection)
        for _ in range(2):
            self._start_dispatcher()

    def close(self) -> None:
        """End everything, in whatever state it is."""
        for timer in self._timers:
            timer.cancel()
        for process in self._dispatchers:
            process.kill()
            process.wait()
        self.ray.close()
        self.redis.kill()

    def run(self, num_kills: int) -> list[str]:
        """Kill `num_kills` times, wait until everything has settled, and check. Returns the violations."""
        while self.kills.total() < num_kills:
            self._users()
            self._look()
            self.kill(self.rng.choice(KINDS))
            self._pause(self.rng.uniform(0.1, 1.0))
        return self.finish()

    def run_each(self, kinds: list[str]) -> list[str]:
        """Let each of these go wrong once, when it can: a driver is killed when one lives."""
        deadline = time.monotonic() + SETTLED_BY_S
        for kind in kinds:
            while not self.kills[kind]:
                assert time.monotonic() < deadline, f"{kind} could not happen"
                self._users()
                self.kill(kind)
                self._pause(0.3)
        return self.finish()

    def finish(self) -> list[str]:
        """Wait until everything has settled, and check. Returns the violations."""
        for timer in self._timers:
            timer.join()
        self._settle()
        self._check()
        return self.violations

    # -- users

    def submit(self) -> None:
        """Submit a job; it counts once that was acknowledged."""
        resources = {"gpus": 0, "workers": 1, "cpus_per_worker": 1}
        with suppress(BertjobsError, redis.RedisError):
            job, _ = self.store.submit(
                "finetune",
                {},
                storage=str(self._storage),
                user="ada",
                resources=resources,
                max_retries=1,
            )
            self.accepted[job.id] = time.monotonic()

    def _users(self) -> None:
        unfinished = [job for job in self.accepted if job not in self.seen and job not in self._lost]
        if len(unfinished) < MAX_UNFINISHED:
            self.submit()
        elif self.rng.random() < 0.03:
            with suppress(BertjobsError, redis.RedisError):
                self.store.cancel(self.rng.choice(unfinished))

    def _look(self) -> None:
        """Look at the states as a user does."""
        for job_id, accepted_at in self.accepted.items():
            if job_id in self._lost or (self.seen.get(job_id) in TERMINAL and self.rng.random() < 0.9):
                continue
            try:
                state = self.connection.client.hget(f"bj:job:{job_id}", "state")
            except redis.RedisError:
                return
            if state is None:
                if not any(cut < accepted_at for cut in self._cuts):
                    self.violations.append(f"{job_id} is gone")
                self._lost.add(job_id)
            elif state in TERMINAL:
                before = self.seen.get(job_id)
                if before not in (None, state) and not (self._cuts and before != "SUCCEEDED"):
                    self.violations.append(f"{job_id}: {before} became {state}")
                self.seen[job_id] = str(state)

    # -- kills

    def kill(self, kind: str) -> None:
        """Let one thing go wrong."""
        if KILLS[kind](self):
            self.kills[kind] += 1

    def _kill_driver(self) -> bool:
        return self._signal(self._drivers(), signal.SIGKILL)

    def _stop_driver(self) -> bool:
        return self._signal(self._drivers(), signal.SIGSTOP, continue_after_s=3 * LEASE_S)

    def _kill_heartbeat(self) -> bool:
        found = heartbeats_below({process.pid for process in self.ray.living()})
        return self._signal(found, signal.SIGKILL)

    def _kill_dispatcher(self) -> bool:
        process = self.rng.choice(self._dispatchers)
        process.kill()
        process.wait()
        self._dispatchers.remove(process)
        self._start_dispatcher()
        return True

    def _stop_dispatcher(self) -> bool:
        pid = self.rng.choice(self._dispatchers).pid
        return self._signal([pid], signal.SIGSTOP, continue_after_s=STOPPED_DISPATCHER_S)

    def _kill_redis(self) -> bool:
        self.redis.kill()
        self.redis.start()
        return True

    def _cut_redis(self) -> bool:
        self.redis.kill()
        file = self._folder / "appendonly.aof"
        before = [(at, size) for at, size in self._sizes if at <= time.monotonic() - 1.0]
        if before and before[-1][1] <= file.stat().st_size:
            at, size = before[-1]
            os.truncate(file, size)
            self._cuts.append(at)
            for job_id, end in list(self.seen.items()):
                if end != "SUCCEEDED":  # only that is in storage too
                    del self.seen[job_id]
        self.redis.start()
        return True

    def _stop_redis(self) -> bool:
        assert self.redis._process is not None
        return self._signal([self.redis._process.pid], signal.SIGSTOP, continue_after_s=0.0, waits_s=4.0)

    def _lose_ray(self) -> bool:
        self.ray.is_away = True
        self._later(5.0, lambda: setattr(self.ray, "is_away", False))
        return True

    def _restart_ray(self) -> bool:
        self.ray.restart(self.rng)
        return True

    def _call_all_failed(self) -> bool:
        self.ray.call_all_failed()
        return True

    def _fail_storage(self) -> bool:
        self._fails.touch()
        self._later(3.0, lambda: self._fails.unlink(missing_ok=True))
        return True

    def _drivers(self) -> list[int]:
        return [process.pid for process in self.ray.living()]

    def _signal(
        self,
        pids: list[int],
        number: signal.Signals,
        *,
        continue_after_s: float | None = None,
        waits_s: float = 0.0,
    ) -> bool:
        if not pids:
            return False
        pid = self.rng.choice(pids)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        if continue_after_s is not None:
            time.sleep(waits_s)
            self._later(continue_after_s, lambda: _continue(pid))
        return True

    def _later(self, seconds: float, call: Callable[[], Any]) -> None:
        self._timers = [timer for timer in self._timers if timer.is_alive()]
        timer = threading.Timer(seconds, call)
        timer.start()
        self._timers.append(timer)

    def _start_dispatcher(self) -> None:
        with (self._folder / "dispatchers.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", "from bertjobs.jobs.dispatcher.loop import main; main()"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._dispatchers.append(process)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            file = self._folder / "appendonly.aof"
            self._sizes.append((now, file.stat().st_size))
            time.sleep(min(0.1, max(0.0, end - now)))

    # -- the end

    def _settle(self) -> None:
        deadline = time.monotonic() + SETTLED_BY_S
        while time.monotonic() < deadline:
            with suppress(redis.RedisError):
                for process in self._dispatchers:  # one that Redis refused has ended, as it should
                    assert process.poll() is None, "a dispatcher has ended"
                self._look()
                left = any(self.connection.client.exists(key) for key in KEYS) or self.ray.living()
                if not left and all(j in self.seen or j in self._lost for j in self.accepted):
                    return
            time.sleep(0.2)

    def _check(self) -> None:
        client: Any = self.connection.client
        for key in KEYS:
            if client.exists(key):
                self.violations.append(f"{key} is left")
        if living := self.ray.living():
            self.violations.append(f"{len(living)} drivers are left")
        pids = {process.pid for process in self.ray.processes}
        if left := heartbeats_below(pids):
            self.violations.append(f"{len(left)} heartbeats are left")
        ends = _ends_of(self._ends)
        for job_id in self.accepted:
            if job_id not in self._lost:
                self._check_job(job_id, ends.get(job_id, []))

    def _check_job(self, job_id: str, ends: list[dict[str, Any]]) -> None:
        job = self.store.get(job_id)
        if job.state is State.FAILED and "faults in a row without a checkpoint" in str(job.message):
            self.num_given_up += 1  # by the rule of `retry.py`; nothing but faults ended its attempts
        elif str(job.state) not in ("SUCCEEDED", "CANCELLED"):
            self.violations.append(f"{job_id} is {job.state}: {job.reason} {job.message}")
        attempts = [int(event.attempt) for event in self.store.events(job_id) if event.reason == "Checkpoint"]
        if attempts != sorted(attempts):
            self.violations.append(f"{job_id}: attempts published in the order {attempts}")
        successes = {end["token"] for end in ends if end["state"] == "SUCCEEDED"}
        if len(successes) > 1 and not self._cuts:
            self.violations.append(f"{job_id}: ended as SUCCEEDED under the tokens {successes}")
        if job.state is State.SUCCEEDED:
            self._check_model(job_id, str(job.artifacts["model"]), {a.token for a in job.attempts})

    def _check_model(self, job_id: str, model: str, tokens: set[int]) -> None:
        document = json.loads((Path(model) / "model.json").read_text())
        if document["steps"] != list(range(1, NUM_STEPS + 1)):
            self.violations.append(f"{job_id}: trained steps are {document['steps']}")
        if document["token"] not in tokens:
            self.violations.append(f"{job_id}: the model bears token {document['token']}, not of {tokens}")
        folder = JobDir(str(self._storage), job_id)
        if folder.exists("metrics.json") and folder.read_json("metrics.json")["token"] != document["token"]:
            self.violations.append(f"{job_id}: model and metrics.json are of two attempts")


KILLS: dict[str, Callable[[Cluster], bool]] = {
    "driver: SIGKILL": Cluster._kill_driver,
    "driver: SIGSTOP for three leases": Cluster._stop_driver,
    "heartbeat: SIGKILL": Cluster._kill_heartbeat,
    "dispatcher: SIGKILL": Cluster._kill_dispatcher,
    "dispatcher: SIGSTOP for longer than its lease": Cluster._stop_dispatcher,
    "Redis: SIGKILL": Cluster._kill_redis,
    "Redis: SIGKILL, its file cut by a second": Cluster._cut_redis,
    "Redis: SIGSTOP for 4 s": Cluster._stop_redis,
    "Ray: away for 5 s": Cluster._lose_ray,
    "Ray: forgets its jobs": Cluster._restart_ray,
    "Ray: calls living jobs FAILED": Cluster._call_all_failed,
    "storage: half of the writes fail for 3 s": Cluster._fail_storage,
}
KINDS = [
    # The leadership of a killed dispatcher stays taken for 10 s, in which nothing else would happen.
    *5 * ["driver: SIGKILL", "heartbeat: SIGKILL"],
    *3 * ["driver: SIGSTOP for three leases", "Redis: SIGKILL"],
    *KILLS,
]


def heartbeats_below(drivers: set[int]) -> list[int]:
    """Return the heartbeat processes of these drivers, living or dead."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"bertjobs.jobs.driver.heartbeat" in words and int(words[-3]) in drivers:
                found.append(int(folder.name))
    return found


def _continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _ends_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        end = json.loads(line)
        found.setdefault(end["job"], []).append(end)
    return found


def main(words: list[str]) -> int:
    """Run the command; print what was killed and what was violated."""
    num_kills, seed = int(words[0]), int(words[1]) if len(words) > 1 else 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bj-") as folder:
        cluster = Cluster(Path(folder), seed=seed)
        try:
            cluster.start()
            violations = cluster.run(num_kills)
        finally:
            cluster.close()
    for kind in KILLS:
        print(f"{cluster.kills[kind]:6} {kind}")
    ends = Counter(cluster.seen.values())
    print(
        f"{cluster.kills.total()} kills in {time.monotonic() - began:.0f} s; {len(cluster.accepted)} jobs: "
        f"{dict(ends)}, {cluster.num_given_up} of them given up after seven faults in a row; "
        f"{len(cluster._lost)} gone with a second that Redis lost; "
        f"{len(violations)} violations"
    )
    print(*violations, sep="\n")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
