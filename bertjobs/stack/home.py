"""Where the files of an embedded stack lie under `BERTJOBS_HOME`. Paths only: no process, no environment.

    stack/              0700: lock, ray-token, redis.sock and one record per member (redis.json, ray.json,
                        dispatcher.json, keeper.json)
    redis/              the append-only file, and the lock that its one writer holds
    ray/                Ray's sessions
    logs/<member>.log   what each member prints

A socket's path may have 107 bytes and Ray adds 75 of its own, so `redis.sock` and `ray/` move to a short
private folder under /tmp where the home's path is too long for them.
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
class Layout:
    """The paths of one stack."""

    home: Path
    redis_socket: Path
    ray_dir: Path
    runtime: Path | None
    """The short folder in use, if the home's path is too long."""

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

    def record(self, member: str) -> Path:
        return self.stack_dir / f"{member}.json"

    def log(self, member: str) -> Path:
        return self.home / "logs" / f"{member}.log"

    def make_folders(self) -> None:
        """Create what is missing, private to this user.

        Raises: StorageError: no right, no room, or the runtime folder belongs to someone else.
        """
        try:
            for folder in (self.home, self.stack_dir, self.redis_dir, self.home / "logs"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.runtime is not None:
                self.runtime.mkdir(exist_ok=True, mode=0o700)
                _check_private(self.runtime)
            self.ray_dir.mkdir(exist_ok=True, mode=0o700)
        except OSError as e:
            raise home_error(self.home, e) from e


def layout_of(settings: Settings) -> Layout:
    """Return the paths of the stack under `settings.home`."""
    home = settings.home
    socket, ray_dir = home / "stack" / "redis.sock", home / "ray"
    fits = (
        _num_bytes(socket) <= MAX_SOCKET_BYTES and _num_bytes(ray_dir) <= MAX_SOCKET_BYTES - _RAY_SUFFIX_BYTES
    )
    if fits:
        return Layout(home=home, redis_socket=socket, ray_dir=ray_dir, runtime=None)
    # Not tempfile.gettempdir(): on macOS, and under a long TMPDIR, it is itself too long for a socket.
    base = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
    runtime = base / f"bj-{os.getuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"
    return Layout(home=home, redis_socket=runtime / "redis.sock", ray_dir=runtime / "ray", runtime=runtime)


def home_error(home: Path, error: OSError) -> StorageError:
    """Put a failed write under the home into words."""
    hint = "Make it writable and leave it room, or set BERTJOBS_HOME to another folder."
    return StorageError(f"{error.filename or home}: {error.strerror or error}.", hint=hint)


def _check_private(folder: Path) -> None:
    # /tmp is everyone's: a folder laid there by someone else could hand us their socket.
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise StorageError(
            f"{folder} is not a folder that only this user can enter.",
            hint="Remove it, or set BERTJOBS_HOME to a folder with a shorter path.",
        )


def _num_bytes(path: Path) -> int:
    return len(os.fsencode(path))
