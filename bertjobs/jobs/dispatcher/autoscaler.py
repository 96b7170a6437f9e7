"""Tells Ray's autoscaler what waits, in a thread apart from the dispatcher's pass.

Ray takes a request only from a process that is connected to it, and the dispatcher is not: a request is sent
as a Ray Job of some seconds (`bertjobs.runs.scale_request`), and only when it has changed. Ray keeps the last
one until another replaces it, so nothing waiting is a request too, which takes the one before back.
"""

import json
import logging
import shlex
import threading
import time
import uuid
from collections.abc import Callable, Mapping

from bertjobs.errors import BertjobsError
from bertjobs.jobs.ray.api import RayApi
from bertjobs.jobs.scheduling.autoscaling import Request

logger = logging.getLogger(__name__)

MIN_INTERVAL_S = 10.0
"""Between two requests: each is a process on the head, and nodes take minutes."""
RENEW_S = 300.0
"""Age after which a request that still holds is sent again: a head that was restarted has lost it."""
TIMEOUT_S = 60.0
"""Of the Ray Job that sends a request."""
POLL_S = 0.5


class Autoscaler:
    """The requests of one dispatcher, from `start` to `close`. `want` does no I/O."""

    def __init__(
        self,
        ray: RayApi,
        *,
        python: str,
        env: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """`wait` waits for some seconds and returns whether it was closed meanwhile."""
        self._ray, self._python, self._env, self._clock = ray, python, env, clock
        self._is_closed = threading.Event()
        self._wait = wait or self._is_closed.wait
        self._wanted: Request | None = None
        """None while we do not lead."""
        self._sent: Request | None = None
        """None before the first request: an earlier dispatcher's may hold."""
        self._sent_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="autoscaler", daemon=True)

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def close(self) -> None:
        """Stop sending. The last request stays in force until the next dispatcher replaces it."""
        self._is_closed.set()

    def want(self, request: Request) -> None:
        """Have this request sent, unless it holds already."""
        self._wanted = request

    def stand_by(self) -> None:
        """Send nothing more: another dispatcher leads."""
        self._wanted = self._sent = None

    def send_due(self) -> bool:
        """Send the request if there is a new one, or the last is old. Returns whether one was sent.

        Raises: RayUnreachable, RayRefused.
        """
        wanted, age_s = self._wanted, self._clock() - self._sent_at
        if wanted is None or age_s < MIN_INTERVAL_S:
            return False
        if wanted == self._sent and (not wanted or age_s < RENEW_S):
            return False
        self._sent_at = self._clock()  # also where it fails: it is not tried at every turn
        self._send(wanted)
        self._sent = wanted
        return True

    def _send(self, request: Request) -> None:
        bundles = [[cpus, gpus, number] for (cpus, gpus), number in sorted(request.items())]
        job = f"bj-scale-{uuid.uuid4().hex[:8]}"
        words = [self._python, "-m", "bertjobs.runs.scale_request", json.dumps(bundles)]
        self._ray.start(job, entrypoint=shlex.join(words), env=self._env, metadata={"bertjobs": "autoscaler"})
        deadline = self._clock() + TIMEOUT_S
        while self._clock() < deadline:
            found = self._ray.job(job)
            if found is None or found.has_ended:
                break
            if self._wait(POLL_S):
                return
        if found is None or found.status != "SUCCEEDED":
            if found is not None and not found.has_ended:
                self._ray.stop(job)
            raise ScaleRequestFailed(f"{job}: {found.message if found else 'Ray has lost it'}")
        logger.info("asked Ray's autoscaler for %s", describe(request))

    def _run(self) -> None:
        while not self._wait(1.0):
            try:
                self.send_due()
            except BertjobsError as e:
                logger.warning("Ray's autoscaler was not told what waits: %s", e)
            except Exception:  # a border: the thread must survive
                logger.exception("Ray's autoscaler was not told what waits")


class ScaleRequestFailed(BertjobsError):
    """The Ray Job that sends a request did not succeed."""

    failure = "RayError"


def describe(request: Request) -> str:
    """Describe a request: `8 x (1 CPU, 1 GPU)`."""
    if not request:
        return "nothing"
    return ", ".join(f"{number} x ({cpus:g} CPU, {gpus:g} GPU)" for (cpus, gpus), number in request.items())
