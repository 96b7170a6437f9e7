"""Reads the results that lost drivers left in storage, in threads apart from the dispatcher's pass: a storage
that hangs holds up neither the pass nor another job.

Whoever wants to end an attempt asks here first, in every pass, until there is an answer. A storage that gives
none is given up; the driver of the next attempt looks there again.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from bertjobs.errors import StorageError
from bertjobs.jobs.attempt_result import AttemptResult, read_result
from bertjobs.jobs.scheduling.types import LiveAttempt
from bertjobs.storage import JobDir, StorageRoots

logger = logging.getLogger(__name__)

GIVE_UP_S = 60.0
"""How long an attempt waits for a storage that fails or hangs before it counts as one without a result."""
RETRY_S = 2.0
MAX_THREADS = 32
"""With those that hang. Where all hang, attempts end without their results being read."""


@dataclass(kw_only=True)
class _Reading:
    """One attempt's result, as far as it has been read."""

    asked_at: float
    due_at: float
    is_busy: bool = False
    has_answer: bool = False
    result: AttemptResult | None = None


class ResultReader:
    """The results of one dispatcher's attempts."""

    def __init__(
        self,
        *,
        roots: StorageRoots,
        clock: Callable[[], float] = time.monotonic,
        start: "Callable[[Callable[[], None]], object] | None" = None,
    ) -> None:
        """`start` runs a call in a thread of its own; tests give one that runs it at once."""
        self._roots = roots
        self._clock = clock
        self._start = start or _in_thread
        self._lock = threading.Lock()
        self._readings: dict[str, _Reading] = {}
        self._num_threads = 0

    def ask(self, live: LiveAttempt) -> tuple[bool, AttemptResult | None]:
        """Return whether it is known if the attempt left a result, and the result. Does no I/O."""
        now = self._clock()
        with self._lock:
            reading = self._readings.setdefault(live.submission_id, _Reading(asked_at=now, due_at=now))
            can_start = not reading.is_busy and not reading.has_answer and reading.due_at <= now
            if can_start and self._num_threads < MAX_THREADS:
                self._num_threads += 1
                reading.is_busy = True
            else:
                can_start = False
        if can_start:
            self._start(lambda: self._read(live, reading))
        with self._lock:
            if not reading.has_answer and now - reading.asked_at >= GIVE_UP_S:
                logger.warning(
                    "%s attempt %d: its storage does not say whether it left a result",
                    live.job_id,
                    live.number,
                )
                reading.has_answer = True
            return reading.has_answer, reading.result

    def keep(self, submission_ids: Collection[str]) -> None:
        """Forget all attempts but these."""
        with self._lock:
            self._readings = {key: found for key, found in self._readings.items() if key in submission_ids}

    def _read(self, live: LiveAttempt, reading: _Reading) -> None:
        job_dir, result, has_answer = JobDir(live.storage, live.job_id), None, False
        try:
            if self._roots.contain(job_dir):
                result = read_result(job_dir, job_id=live.job_id, attempt=live.number, token=live.token)
            has_answer = True
        except StorageError as e:
            logger.warning("%s attempt %d: its result is not read: %s", live.job_id, live.number, e)
        except Exception:  # a border: what a storage raises concerns this attempt only
            logger.exception("%s attempt %d: its result is not read", live.job_id, live.number)
        with self._lock:
            self._num_threads -= 1
            reading.is_busy, reading.due_at = False, self._clock() + RETRY_S
            # The race: it may have been given up meanwhile, and the attempt ended on that.
            if has_answer and not reading.has_answer:
                reading.has_answer, reading.result = True, result


def _in_thread(call: Callable[[], None]) -> None:
    threading.Thread(target=call, name="result-read", daemon=True).start()
