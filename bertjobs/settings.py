"""Where things are: the one place that reads the environment. What a job does is in `config`, not here."""

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bertjobs.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Addresses and folders of one installation, read from `BERTJOBS_*`."""

    home: Path
    """`BERTJOBS_HOME`: pid files, sockets, caches and, by default, the artefacts. Default `~/.bertjobs`."""
    redis_url: str | None
    """`BERTJOBS_REDIS_URL`: a shared Redis, `rediss://host:6380/0` where it speaks TLS; without it the
    embedded stack is used. Names neither user nor password: drivers get it and are another user."""
    redis_user: str | None
    """`BERTJOBS_REDIS_USER`: who we are for Redis' access list; without it its default user."""
    redis_password: str | None = field(repr=False)
    """`BERTJOBS_REDIS_PASSWORD`, or the content of the file that `BERTJOBS_REDIS_PASSWORD_FILE` names."""
    redis_ca_file: Path | None
    """`BERTJOBS_REDIS_CA_FILE`: the certificates that Redis' own is checked with; without it the system's."""
    ray_address: str | None
    """`BERTJOBS_RAY_ADDRESS`: the dashboard address of a shared Ray, `http://host:8265`."""
    storage: str
    """`BERTJOBS_STORAGE`: folder (here always absolute) or `pyarrow.fs` URI of the artefacts. Default
    `<home>/jobs`."""
    cache: Path
    """`BERTJOBS_CACHE`: encoded data and downloads. Default `<home>/cache`."""
    is_stack_member: bool
    """`BERTJOBS_STACK_MEMBER`, set by the embedded stack for its own processes: all of them, Ray's workers
    included, have the same `BERTJOBS_*`, so nothing need be handed on."""
    shared_folders: tuple[Path, ...]
    """`BERTJOBS_SHARED_FOLDERS`, separated by colons, and the storage if it is a folder: what the nodes of a
    cluster see under the same path. Files that a job names and that lie elsewhere are sent along."""
    max_upload_mb: float
    """`BERTJOBS_MAX_UPLOAD_MB`: most that a job may send along. Default 1000."""
    sends_code: bool
    """`BERTJOBS_SEND_CODE=1`: every job brings this package along, for nodes that have Ray, torch and what
    else it needs, and not the package itself."""
    node_python: str
    """`BERTJOBS_NODE_PYTHON`: the Python of Ray's nodes. Default: where ours is on this machine."""
    lease_s: float
    """`BERTJOBS_LEASE_S`: seconds without a heartbeat after which the dispatcher asks Ray. Default 15."""
    keep_s: float | None
    """`BERTJOBS_KEEP_S`: seconds that a job without `--keep` is kept after its end. Default: for good."""
    metrics_port: int | None
    """`BERTJOBS_METRICS_PORT`: where the dispatcher serves `/metrics` for Prometheus. Default: nowhere."""
    test_precision: Literal["bf16", "fp32"] | None
    """`BERTJOBS_TEST_PRECISION`, for tests: see `forced_cpu_precision`. Default: ask the processor."""

    @property
    def is_embedded(self) -> bool:
        """Whether Redis, Ray and the dispatcher are ours to start."""
        return self.redis_url is None and self.ray_address is None

    @property
    def is_one_machine(self) -> bool:
        """Whether jobs certainly run where they are submitted, so that all paths are the same."""
        return self.is_embedded or str(self.redis_url).startswith("unix:")


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Raises: ConfigError: a password file that cannot be read, or a variable that is not what it should be.
    """
    env = os.environ if environ is None else environ
    home = Path(env.get("BERTJOBS_HOME") or "~/.bertjobs").expanduser().absolute()
    redis_url, ray_address = env.get("BERTJOBS_REDIS_URL") or None, env.get("BERTJOBS_RAY_ADDRESS") or None
    storage = _storage(env.get("BERTJOBS_STORAGE") or str(home / "jobs"))
    return Settings(
        home=home,
        redis_url=redis_url,
        redis_user=env.get("BERTJOBS_REDIS_USER") or None,
        redis_password=_password(env),
        redis_ca_file=_file(env, "BERTJOBS_REDIS_CA_FILE"),
        ray_address=ray_address,
        storage=storage,
        cache=Path(env.get("BERTJOBS_CACHE") or home / "cache").expanduser().absolute(),
        is_stack_member="BERTJOBS_STACK_MEMBER" in env,
        shared_folders=_folders(storage, env.get("BERTJOBS_SHARED_FOLDERS") or ""),
        max_upload_mb=_positive(env, "BERTJOBS_MAX_UPLOAD_MB", 1000.0, unit="MB"),
        sends_code=_switch(env, "BERTJOBS_SEND_CODE"),
        node_python=env.get("BERTJOBS_NODE_PYTHON") or sys.executable,
        lease_s=_positive(env, "BERTJOBS_LEASE_S", 15.0),
        keep_s=_positive(env, "BERTJOBS_KEEP_S", 0.0) or None,
        metrics_port=_port(env, "BERTJOBS_METRICS_PORT"),
        test_precision=forced_cpu_precision(env),
    )


def forced_cpu_precision(environ: Mapping[str, str] | None = None) -> Literal["bf16", "fp32"] | None:
    """Return what `BERTJOBS_TEST_PRECISION` says of the CPU; None where the processor is to be asked.

    For tests: with `bf16` a CPU counts as one that has bf16 arithmetic, emulated if need be, and with
    `fp32` as one that has none. It decides nothing about GPUs.

    Raises: ConfigError: it is something else.
    """
    given = (os.environ if environ is None else environ).get("BERTJOBS_TEST_PRECISION")
    if not given:
        return None
    if given == "bf16":
        return "bf16"
    if given == "fp32":
        return "fp32"
    raise ConfigError(
        f"BERTJOBS_TEST_PRECISION={given} is neither bf16 nor fp32.",
        hint="Unset it to ask the processor.",
    )


def _storage(given: str) -> str:
    """Make a folder absolute: the job runs elsewhere than where it was submitted."""
    path = given.removeprefix("file://")
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _folders(storage: str, given: str) -> tuple[Path, ...]:
    named = [Path(folder).expanduser().absolute() for folder in given.split(":") if folder]
    return (*named, Path(storage)) if storage.startswith("/") else tuple(named)


def _file(env: Mapping[str, str], name: str) -> Path | None:
    given = env.get(name)
    return Path(given).expanduser().absolute() if given else None


def _password(env: Mapping[str, str]) -> str | None:
    path = env.get("BERTJOBS_REDIS_PASSWORD_FILE")
    if not path:
        return env.get("BERTJOBS_REDIS_PASSWORD") or None
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        cause = e.strerror if isinstance(e, OSError) else "it is not text"
        raise ConfigError(
            f"BERTJOBS_REDIS_PASSWORD_FILE={path} cannot be read: {cause}.",
            hint="Give a file that holds the password and nothing else, readable by this user.",
        ) from e


def _switch(env: Mapping[str, str], name: str) -> bool:
    given = env.get(name) or "0"
    if given not in ("0", "1"):
        raise ConfigError(f"{name}={given} is neither 1 nor 0.", hint="Set it to 1, or unset it.")
    return given == "1"


def _port(env: Mapping[str, str], name: str) -> int | None:
    given = env.get(name)
    if not given:
        return None
    if not (given.isdecimal() and 0 < int(given) < 65536):
        raise ConfigError(f"{name}={given} is no port.", hint="Give a number from 1 to 65535, or unset it.")
    return int(given)


def _positive(env: Mapping[str, str], name: str, default: float, *, unit: str = "seconds") -> float:
    given = env.get(name)
    if not given:
        return default
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        usual = f"{default:g} {'s' if unit == 'seconds' else unit}" if default else "no limit"
        raise ConfigError(
            f"{name}={given} is not a positive number of {unit}.",
            hint=f"Unset it for {usual}.",
        )
    return value
