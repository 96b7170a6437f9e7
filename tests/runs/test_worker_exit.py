"""Processes that exit, and one that would never."""

import signal
import subprocess
import sys

from ray._common.utils import load_class

from bertjobs.runs import worker_exit

HANGS_AT_EXIT = """
import ctypes
libc = ctypes.CDLL(None)
# A handler of a native library that waits for what never comes.
libc.__cxa_atexit(ctypes.cast(libc.pause, ctypes.c_void_p), None, None)
"""
LIMITED = "from bertjobs.runs.worker_exit import limit_exit_time\nlimit_exit_time(1)\n"


def test_a_process_that_hangs_in_a_native_exit_handler_is_ended_by_the_kernel():
    done = subprocess.run([sys.executable, "-c", HANGS_AT_EXIT + LIMITED])
    assert done.returncode == -signal.SIGALRM


def test_a_process_that_exits_in_time_keeps_its_exit_code():
    done = subprocess.run([sys.executable, "-c", LIMITED + "raise SystemExit(3)"])
    assert done.returncode == 3


def test_ray_finds_the_hook_by_its_name():
    assert load_class(worker_exit.SETUP_HOOK) is worker_exit.limit_exit_time
