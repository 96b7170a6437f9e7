"""Bound how long a Ray worker process takes to exit. Must stay light: each worker imports it first.

A worker that has told Ray it is done, and that Ray no longer watches, can hang for ever in the exit
handlers of the native libraries that it has loaded, and keep its memory. Seen in ray 2.60 with an actor of
Ray Data on a busy machine: Ray's part of the shutdown was complete, the process stayed.
"""

import atexit
import signal

EXIT_LIMIT_S = 30
"""Clean exits take up to 5 s on a busy machine."""
SETUP_HOOK = "bertjobs.runs.worker_exit.limit_exit_time"
"""For `ray.init(runtime_env={"worker_process_setup_hook": ...})`."""


def limit_exit_time(limit_s: int = EXIT_LIMIT_S) -> None:
    """Have the kernel end this process where it still exists `limit_s` after it began to exit."""
    atexit.register(_set_alarm, limit_s)


def _set_alarm(limit_s: int) -> None:
    # No thread of Python's lives through what follows; a signal's default action needs none.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(limit_s)
