"""The paths of an embedded stack under `BERTJOBS_HOME`. Knows neither processes nor the environment.

    stack/              0700: lock, ray-token, redis.sock and one record per member (redis.json, ray.json,
                        dispatcher.json, watchdog.json)
    redis/              the append-only file, and the lock that its only writer holds
    ray/                Ray's sessions
    logs/<member>.log   the output of each member

The path of a socket may have 107 bytes, and Ray adds 75 of its own. Where the home's path is too long for
that, `redis.sock` and `ray/` are in a short private folder under /tmp instead.
"""

import hashlib
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bertjobs.errors import StorageError
from bertjobs.settings import Settings

MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
_RAY_SUFFIX_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_PlatformEventsHead") + 1


@dataclass(frozen=True)
class StackPaths:
    """The paths of one stack."""

    home: Path
    redis_socket: Path
    ray_dir: Path
    runtime_dir: Path | None
    """The short folder under /tmp, if the home's path is too long."""

    @property
    def stack_dir(self) -> Path:
        return self.home / "stack"

    @property
    def lock(self) -> Path:
        return self.stack_dir / "lock"

    @property
    def ray_token(self) -> Path:
        return self.stack_dir / "ray-token"

    @property
    def redis_dir(self) -> Path:
        return self.home / "redis"

    def record_file(self, member: str) -> Path:
        return self.stack_dir / f"{member}.json"

    def log_file(self, member: str) -> Path:
        return self.home / "logs" / f"{member}.log"

    def make_folders(self) -> None:
        """Create the missing folders, private to this user.

        Raises: StorageError: no permission, no space, or the runtime folder belongs to another user.
        """
        try:
            for folder in (self.home, self.stack_dir, self.redis_dir, self.home / "logs"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.runtime_dir is not None:
                self.runtime_dir.mkdir(exist_ok=True, mode=0o700)
                _check_private(self.runtime_dir)
            self.ray_dir.mkdir(exist_ok=True, mode=0o700)
        except OSError as e:
            raise unwritable_home(self.home, e) from e


def stack_paths(settings: Settings) -> StackPaths:
    """Return the paths of the stack under `settings.home`."""
    home = settings.home
    socket, ray_dir = home / "stack" / "redis.sock", home / "ray"
    fits = (
        _num_bytes(socket) <= MAX_SOCKET_BYTES and _num_bytes(ray_dir) <= MAX_SOCKET_BYTES - _RAY_SUFFIX_BYTES
    )
    if fits:
        return StackPaths(home=home, redis_socket=socket, ray_dir=ray_dir, runtime_dir=None)
    # Not tempfile.gettempdir(): on macOS, and under a long TMPDIR, it is itself too long for a socket.
    base = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
    runtime = base / f"bj-{os.getuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"
    return StackPaths(
        home=home, redis_socket=runtime / "redis.sock", ray_dir=runtime / "ray", runtime_dir=runtime
    )


def unwritable_home(home: Path, error: OSError) -> StorageError:
    """Make an error of a failed write under the home."""
    hint = "Make it writable and free some space, or set BERTJOBS_HOME to another folder."
    return StorageError(f"{error.filename or home}: {error.strerror or error}", hint=hint)


def _check_private(folder: Path) -> None:
    # Every user can write to /tmp: a folder that another user made there could contain their socket.
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise StorageError(
            f"{folder} is not a folder that only this user can enter",
            hint="Remove it, or set BERTJOBS_HOME to a folder with a shorter path.",
        )


def _num_bytes(path: Path) -> int:
    return len(os.fsencode(path))
