"""Start one member of the stack as a process that is detached from the command that starts it.

Runs as a script (`python -I -S launch.py SPEC`) and uses the standard library only, so that a start takes 20
ms. The new process writes its own record before it executes the member's program, and holds the start lock
until then: whichever process is killed in between, no member ever runs without a record, and no two commands
start members at the same time.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def main() -> int:
    """Start what the JSON in argv[1] describes: record, log, cwd, argv, lock_fds, facts."""
    spec = json.loads(sys.argv[1])
    for fd in spec["lock_fds"]:
        os.set_inheritable(fd, False)
    read_end, write_end = (
        os.pipe()
    )  # closed by exec: the end of the file without text means that the member runs
    if os.fork() == 0:
        try:
            os.close(read_end)
            _become(spec)
        except BaseException as e:  # the forked child must report to its parent and exit, whatever happened
            number = e.errno or 0 if isinstance(e, OSError) else 0
            os.write(write_end, f"{number} {e}".encode())
        finally:
            os._exit(127)
    os.close(write_end)
    with os.fdopen(read_end) as f:
        problem = f.read()
    sys.stderr.write(problem)
    return 1 if problem else 0


def started(pid: int) -> str | None:
    """Return an identity of a running process that a later process with its pid does not have; None if it
    ended.

    Not psutil's `create_time`: it is computed from the wall clock at boot, which can be adjusted, and this
    module has no access to installed packages.
    """
    if not Path("/proc/self/stat").exists():
        import subprocess  # 15 ms, on macOS only

        found = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True)
        state, _, start = found.stdout.strip().partition(" ")
        return None if not state or state.startswith("Z") else start.strip()
    try:
        # The command's name in brackets may contain blanks and brackets; the fields after it do not.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else f"{boot()}:{fields[19]}"


def boot() -> str:
    """Return the id of the current boot; empty on macOS, where the start of a process includes its date."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return ""


def _become(spec: dict[str, Any]) -> None:
    os.setsid()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    _write_record(spec)
    os.chdir(spec["cwd"])
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.execve(spec["argv"][0], spec["argv"], dict(os.environ))


def _write_record(spec: dict[str, Any]) -> None:
    record = {
        "pid": os.getpid(),
        "started": started(os.getpid()),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": os.uname().nodename,
        "log": spec["log"],
        **spec["facts"],
    }
    path = Path(spec["record"])
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_text(json.dumps(record))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
