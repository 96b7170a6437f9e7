"""The processes of the campaign: the real dispatcher, and drivers as state machines over the real session."""

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from bertjobs.errors import BertjobsError, Cancelled, DataError, LeaseLost, RunError
from bertjobs.jobs.attempt_result import AttemptResult
from bertjobs.jobs.dispatcher.attempt_policy import Timeouts
from bertjobs.jobs.dispatcher.leadership import LeadershipRenewal
from bertjobs.jobs.dispatcher.log_copier import LogCopier
from bertjobs.jobs.dispatcher.loop import Dispatcher
from bertjobs.jobs.dispatcher.result_reader import ResultReader
from bertjobs.jobs.driver.heartbeat import beat, command_of
from bertjobs.jobs.driver.session import JobSession
from bertjobs.jobs.driver.stall import StallRule
from bertjobs.jobs.store.connection import NotLeader, RedisDown
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.lease_store import LeaseStore
from bertjobs.runs import driver as real_driver
from bertjobs.runs.run_context import remaining_checkpoint
from bertjobs.storage import JobDir, StorageRoots
from bertjobs.training.checkpoints.checkpoint_names import checkpoint_name, superseded
from faults.virtual_time import VirtualConnection

LEASE_S = 15.0
NUM_STEPS = 6
STEPS_PER_CHECKPOINT = 2


class Killed(BaseException):
    """SIGKILL, at the call at which it is raised."""


class Terminated(BaseException):
    """SIGTERM, as the driver's handler raises it."""


class RankKilled(RunError):
    """A training process was killed; Ray Train tells the driver."""

    failure = "WorkerLost"


class Process:
    """Something that is stepped at `next_at`, and meets the faults of its kind."""

    def __init__(self, world: Any, kind: str, *, next_at: float) -> None:
        self.world = world
        self.kind = kind
        self.next_at = next_at
        self.is_alive = True
        self.num_calls = 0
        self.cut_until = {"redis": 0.0, "ray": 0.0}

    def step(self) -> None:
        raise NotImplementedError

    def killed(self) -> None:
        """Be gone."""
        self.is_alive = False


class DispatcherProcess(Process):
    """One dispatcher over the real code, replaced where it is killed."""

    def __init__(self, world: Any, kind: str, *, next_at: float) -> None:
        super().__init__(world, kind, next_at=next_at)
        self._start()

    def _start(self) -> None:
        world = self.world
        self.connection = VirtualConnection(world.client, world)
        world.num_dispatchers += 1
        self.store = DispatchStore(self.connection, owner=f"d{world.num_dispatchers}", lease_s=10.0)
        roots = StorageRoots(None)
        self.logs = LogCopier(self.store, world.ray, roots=roots, clock=lambda: world.now)
        self.dispatcher = Dispatcher(
            self.store,
            world.ray,
            world.ray,
            env={},
            timeouts=Timeouts(lease_s=LEASE_S, start_s=300.0),
            clock=lambda: world.now,
            logs=self.logs,
            results=ResultReader(roots=roots, clock=lambda: world.now, start=world.start_thread),
        )
        # One after the other: threads would make the run depend on more than its seed.
        self.dispatcher._supervisor._each = lambda call, items: [call(item) for item in items]  # type: ignore[method-assign]
        self.renewal = LeadershipRenewal(
            self.store, last_pass_at=lambda: self.dispatcher.last_pass_at, clock=lambda: world.now
        )

    def step(self) -> None:
        self.next_at = self.world.now + 2.0
        try:
            self.dispatcher.run_pass()
            self.logs.copy_due()
        except (NotLeader, RedisDown):
            self.dispatcher.reset()
        except Exception as e:  # the product logs it and goes on; here it is a finding
            self.world.violate(f"a pass failed: {type(e).__name__}: {e}")
            self.dispatcher.reset()

    def renew(self) -> None:
        """Do what the thread beside the pass does."""
        with suppress(BertjobsError):
            self.renewal.renew()

    def killed(self) -> None:
        self._start()
        self.next_at = self.world.now + 3.0


class HeartbeatProcess(Process):
    """One turn of the real loop at a time."""

    def __init__(self, world: Any, driver: "DriverProcess") -> None:
        super().__init__(world, "heartbeat", next_at=world.now + LEASE_S / 5)
        self._driver = driver
        self.cut_until = driver.cut_until  # on the same node
        self._kill_at = float("inf")
        self._rule = StallRule(timeout_s=900.0, clock=lambda: world.now)
        self._store = LeaseStore(
            VirtualConnection(world.client, world),
            job_id=driver.job_id,
            attempt=driver.attempt,
            token=driver.token,
            lease_s=LEASE_S,
        )

    def step(self) -> None:
        driver = self._driver
        if not driver.is_alive:
            self.is_alive = False
            return
        self.next_at = self.world.now + LEASE_S / 5
        if self.world.now >= self._kill_at:
            driver.killed()
            return
        words: list[str] = []
        beat(
            lambda: command_of(self._store, self._rule),
            notify=words.append,
            wait=lambda: False,
            kill=lambda signum: driver.terminate(words[-1]) if signum == signal.SIGTERM else None,
            clock=lambda: self.world.now,
        )
        if "lost" in words:
            self._kill_at = min(self._kill_at, self.world.now + 30.0)

    def killed(self) -> None:
        self.next_at = self.world.now + 1.0  # the driver starts another one


class DriverProcess(Process):
    """One attempt: the order of effects is that of `runs.driver` and `training.checkpoints.checkpoint`."""

    def __init__(self, world: Any, *, job_id: str, attempt: int, token: int) -> None:
        super().__init__(world, "driver", next_at=world.now + 1.5)
        self.job_id, self.attempt, self.token = job_id, attempt, token
        self.exit_code: int | None = None
        self.has_workers = False
        """Whether it has started actors, which end with it."""
        self.word = ""
        self._is_terminating = False
        self._published: str | None = None
        self._rng = random.Random(f"{world.seed} {job_id} {attempt}")
        self._work = self._run()
        self._sigkill_at = float("inf")

    @property
    def actor(self) -> tuple[str, int]:
        return self.job_id, self.token

    def step(self) -> None:
        self.next_at = self.world.now + 2.0
        try:
            if self._is_terminating and self._sigterm_counts:
                self._is_terminating, self._sigterm_counts = False, False
                self._work.throw(Terminated())
            else:
                next(self._work)
        except StopIteration as stop:
            self._exit(stop.value)
        except LeaseLost as e:
            self._exit(e.exit_code)
        except Killed:
            raise
        except BertjobsError as e:  # finishing failed: Python ends with 1
            self._exit(e.exit_code or 1)

    _sigterm_counts = True
    """Once: the handler ignores what follows."""

    def terminate(self, word: str = "") -> None:
        """Send SIGTERM."""
        self.word = self.word or word
        self._is_terminating = True

    def killed(self) -> None:
        self._exit(-9)

    def _exit(self, code: int) -> None:
        self.is_alive, self.exit_code = False, code
        self.world.ray.driver_exited(self)

    def _run(self) -> Iterator[None]:
        world = self.world
        connection = VirtualConnection(world.client, world)
        session = world.open_session(connection, self)
        world.add(HeartbeatProcess(world, self))
        rank_session = None
        try:
            session.start()
            world.journal.started(self)
            yield
            result = session.earlier_result()
            if result is None:
                job_dir = session.job.job_dir
                session.set_phase("encoding")
                yield
                if world.rng.random() < 0.05:
                    raise DataError("dev.jsonl:3 is broken")
                self._rank_connection = VirtualConnection(world.client, world)
                rank_session = world.open_session(self._rank_connection, self)
                self.has_workers = True
                steps = yield from self._train(rank_session, job_dir)
                model = self._model_name()
                self._confirm(rank_session)
                self._write(job_dir, f"{model}/model.json", steps)
                self._write(job_dir, f"{self._outputs_name()}/metrics.json", steps)
                yield
                artifacts = {"dir": job_dir.uri, "model": job_dir.path_of(model)}
                result = AttemptResult(metrics={"steps": len(steps)}, artifacts=artifacts)
            self._sigterm_counts = False
            code: int = real_driver._succeed(session, result)
            return code
        except Terminated:
            return self._end(session, self._reason())
        except LeaseLost:
            raise
        except Exception as e:
            return self._end(session, e)

    def _train(self, session: JobSession, job_dir: JobDir) -> Any:
        steps: list[int] = []
        if (name := remaining_checkpoint(job_dir, session.job.checkpoint)) is not None:
            self._published = name
            steps = list(job_dir.read_json(f"checkpoints/{name}")["steps"])
        while len(steps) < NUM_STEPS:
            self.kind = "rank"
            try:
                steps.append(len(steps) + 1)
                session.progress({"step": len(steps), "num_steps": NUM_STEPS})
                command = session.command()
                if len(steps) % STEPS_PER_CHECKPOINT == 0 or command == "drain":
                    self._publish(session, job_dir, steps)
            finally:
                self.kind = "driver"
            if command == "cancel":
                raise Cancelled("Cancelled while it ran")
            if command == "drain":
                raise _Drained("The queue was drained")
            yield
        return steps

    def _publish(self, session: JobSession, job_dir: JobDir, steps: list[int]) -> None:
        name = self._checkpoint_name(len(steps))
        self._confirm(session)
        self._write(job_dir, f"checkpoints/{name}", steps)
        session.publish_checkpoint(name, len(steps))
        names = job_dir.list("checkpoints")
        for old in superseded(names, published=name, previous=self._published, best_step=None):
            job_dir.remove(f"checkpoints/{old}")
        self._published = name

    def _confirm(self, session: JobSession) -> None:
        """Make sure that files may be written, and check what the product makes of that."""
        session.confirm_lease()
        silent_s = self.world.now - self._rank_connection.answered_at
        if silent_s > 2 * LEASE_S:
            self.world.violate(f"{self.job_id}: files are written {silent_s:.0f} s after Redis last answered")

    def _write(self, job_dir: JobDir, name: str, steps: list[int]) -> None:
        job_dir.write_json(name, {"attempt": self.attempt, "token": self.token, "steps": steps})

    def _checkpoint_name(self, step: int) -> str:
        return checkpoint_name(step, writer=f"a{self.attempt}")

    def _outputs_name(self) -> str:
        return f"outputs-a{self.attempt}"

    def _model_name(self) -> str:
        return f"model-a{self.attempt}"

    def _reason(self) -> BertjobsError:
        if self.word == "lost":
            raise LeaseLost(f"{self.job_id}: lost")
        return (
            Cancelled("Cancelled while it ran") if self.word == "cancel" else _Stopped("Stopped from outside")
        )

    def _end(self, session: JobSession, error: BaseException) -> int:
        session.finish(error)
        return 1


class _Drained(RunError):
    failure = "Drained"


class _Stopped(RunError):
    failure = "DriverStopped"


class Task(Process):
    """One call of a thread beside the dispatcher's pass."""

    def __init__(self, world: Any, call: Callable[[], None]) -> None:
        super().__init__(world, "thread", next_at=world.now + 0.1)
        self._call = call

    def step(self) -> None:
        try:
            self._call()
        finally:
            self.is_alive = False
