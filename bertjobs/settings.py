"""Where things are: addresses and folders of one installation, read from the environment here and nowhere
else.

What a job does is in `config`, not here. Each setting has its variable, type, default and meaning once, on
its field; `settings_table` lists them for the reference page."""

import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from bertjobs.errors import ConfigError

CpuPrecision = Literal["bf16", "fp32"]

DEFAULT_MAX_UPLOAD_MB = 1000.0
DEFAULT_LEASE_S = 15.0
DEFAULT_COLLECTIVE_TIMEOUT_S = 600.0
DEFAULT_STALL_TIMEOUT_S = 900.0
DEFAULT_START_DEADLINE_S = 900.0
DEFAULT_KEEP_CACHE_S = 30 * 24 * 3600.0
_THREAD_WAITING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
_SPIN_COUNT = 1000
"""Turns of a waiting thread's loop before it sleeps, some 10 us: the pause between two operators of a step.
OpenMP's default of 300,000 keeps a core for 4 ms, which others on a busy machine, and the very thread that is
waited for, could use. See docs/experiments.md."""
DEFAULT_KEEP_INPUTS_S = 30 * 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One variable of the environment."""

    variable: str
    type: str
    default: str
    """As a reader of the reference needs it; empty where the setting is unset by default."""
    meaning: str


def _setting(variable: str, type: str, *, default: str = "", meaning: str) -> dict[str, Any]:
    """Return the metadata of a field."""
    found = Setting(variable=f"BERTJOBS_{variable}", type=type, default=default, meaning=meaning)
    return {"settings": (found,)}


def _secret_setting(variable: str, *, what: str) -> dict[str, Any]:
    """Return the metadata of a field that is given by a variable, or by a file that another one names."""
    given = _setting(variable, "text", meaning=f"{what[0].upper()}{what[1:]}.")
    by_file = _setting(
        f"{variable}_FILE",
        "file",
        meaning=f"File that holds the {what}; read instead of BERTJOBS_{variable}.",
    )
    return {"settings": (*given["settings"], *by_file["settings"])}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one process."""

    home: Path = field(
        metadata=_setting(
            "HOME",
            "folder",
            default="~/.bertjobs",
            meaning="Pid files, sockets, logs of the local stack, caches and, by default, the artefacts.",
        )
    )
    redis_url: str | None = field(
        metadata=_setting(
            "REDIS_URL",
            "address",
            default="the local stack's",
            meaning="Address of a shared Redis, without user and password: redis://host:6379/0, with TLS "
            "rediss://host:6380/0, or unix:///path. Drivers get this address too, and are another user.",
        )
    )
    redis_user: str | None = field(
        metadata=_setting("REDIS_USER", "text", default="Redis' default user", meaning="User name for Redis.")
    )
    redis_password: str | None = field(
        repr=False, metadata=_secret_setting("REDIS_PASSWORD", what="password for Redis")
    )
    redis_ca_file: Path | None = field(
        metadata=_setting(
            "REDIS_CA_FILE",
            "file",
            default="the system's certificates",
            meaning="Certificates that the certificate of Redis is checked with.",
        )
    )
    server: str | None = field(
        metadata=_setting(
            "SERVER",
            "address",
            meaning="Address of a `bertjobs web` whose API is used instead of Redis, by people who hold no "
            "password of Redis: https://jobs.example.org.",
        )
    )
    token: str | None = field(repr=False, metadata=_secret_setting("TOKEN", what="token for BERTJOBS_SERVER"))
    """For the server."""
    ray_address: str | None = field(
        metadata=_setting(
            "RAY_ADDRESS",
            "address",
            default="the local stack's",
            meaning="Address of the dashboard of a shared Ray: http://host:8265.",
        )
    )
    storage: str = field(
        metadata=_setting(
            "STORAGE",
            "folder or address",
            default="$BERTJOBS_HOME/jobs",
            meaning="Where the artefacts of jobs are: a folder, or an address that pyarrow.fs opens, such as "
            "s3://bucket/jobs.",
        )
    )
    """A folder is absolute here."""
    storage_roots: tuple[str, ...] = field(
        metadata=_setting(
            "STORAGE_ROOTS",
            "folders or addresses, separated by commas",
            meaning="Places, besides the storage of the dispatcher, where users may have their storage. The "
            "dispatcher copies logs to no other place, and deletes nothing in one. The local stack, which "
            "belongs to one user, has no such limit.",
        )
    )
    """Without the storage itself; see `allowed_storage`."""
    cache: Path = field(
        metadata=_setting(
            "CACHE",
            "folder",
            default="$BERTJOBS_HOME/cache",
            meaning="Downloads, unpacked archives and encoded data.",
        )
    )
    encoded: str | None = field(
        metadata=_setting(
            "ENCODED",
            "folder or address",
            default="$BERTJOBS_CACHE/encoded on one machine, else $BERTJOBS_STORAGE/encoded",
            meaning="Where encoded corpora are: a folder that all nodes of the cluster see under the same "
            "path, or an address that pyarrow.fs opens.",
        )
    )
    """See `encoded_corpora`."""
    is_stack_member: bool = field(
        metadata=_setting(
            "STACK_MEMBER",
            "set or unset",
            meaning="Set by the local stack for its own processes, Ray's workers included. Not for users.",
        )
    )
    """Such processes have the same `BERTJOBS_*` as their parent, which need not pass them on."""
    shared_folders: tuple[Path, ...] = field(
        metadata=_setting(
            "SHARED_FOLDERS",
            "folders, separated by colons",
            meaning="Folders, besides the storage, that all nodes of the cluster see under the same path. "
            "Other input files of a job are uploaded with it.",
        )
    )
    """With the storage, where that is a folder."""
    max_upload_mb: float = field(
        metadata=_setting(
            "MAX_UPLOAD_MB",
            "number > 0",
            default=f"{DEFAULT_MAX_UPLOAD_MB:g}",
            meaning="Most megabytes of input files that a job may upload.",
        )
    )
    sends_code: bool = field(
        metadata=_setting(
            "SEND_CODE",
            "0 or 1",
            default="0",
            meaning="With 1 every job brings this package along, for nodes that have Ray, torch and the "
            "other dependencies, but not the package.",
        )
    )
    node_python: str = field(
        metadata=_setting(
            "NODE_PYTHON",
            "file",
            default="the path of the Python in use",
            meaning="Python interpreter on the nodes of Ray.",
        )
    )
    lease_s: float = field(
        metadata=_setting(
            "LEASE_S",
            "seconds > 0",
            default=f"{DEFAULT_LEASE_S:g}",
            meaning="Time without a heartbeat of a driver after which the dispatcher asks Ray about it.",
        )
    )
    stall_timeout_s: float = field(
        metadata=_setting(
            "STALL_TIMEOUT_S",
            "seconds > 0",
            default=f"{DEFAULT_STALL_TIMEOUT_S:g}",
            meaning="Time without progress after which an attempt counts as stalled, or 20 times the median "
            "time between two reports of steps, whichever is longer; `submit --stall-timeout` sets it for "
            "one job.",
        )
    )
    start_deadline_s: float = field(
        metadata=_setting(
            "START_DEADLINE_S",
            "seconds > 0",
            default=f"{DEFAULT_START_DEADLINE_S:g}",
            meaning="How long a driver may take to report, and the workers of a job to start, before the "
            "attempt is ended. Downloading, encoding and loading do not count.",
        )
    )
    max_drivers: int | None = field(
        metadata=_setting(
            "MAX_DRIVERS",
            "integer >= 1",
            default="by the memory of Ray's head, or the number of BERTJOBS_DRIVER_RESOURCE",
            meaning="Most jobs that run at once: each has a driver of some 400 MB, by default on Ray's head.",
        )
    )
    driver_resource: str | None = field(
        metadata=_setting(
            "DRIVER_RESOURCE",
            "text",
            default="drivers run on the head",
            meaning="Resource of Ray, such as bertjobs_driver, that drivers need one of: they run on "
            "the nodes that were started with it (`ray start --resources='{\"bertjobs_driver\": 16}'`).",
        )
    )
    autoscale_gpus: int | None = field(
        metadata=_setting(
            "AUTOSCALE_GPUS",
            "integer >= 1",
            default="none is asked for",
            meaning="Most GPUs that the dispatcher asks Ray's autoscaler for, with those of running jobs: "
            "not more than the node groups may grow to, or Ray may add none.",
        )
    )
    autoscale_cpus: int | None = field(
        metadata=_setting(
            "AUTOSCALE_CPUS",
            "integer >= 1",
            default="none is asked for",
            meaning="The same for the CPUs of jobs without GPUs.",
        )
    )
    collective_timeout_s: float = field(
        metadata=_setting(
            "COLLECTIVE_TIMEOUT_S",
            "seconds > 0",
            default=f"{DEFAULT_COLLECTIVE_TIMEOUT_S:g}",
            meaning="How long workers wait for one another in an exchange (NCCL, Gloo) before the attempt "
            "fails. Rank 0 may write a checkpoint meanwhile, so leave room for the slowest.",
        )
    )
    keep_s: float | None = field(
        metadata=_setting(
            "KEEP_S",
            "seconds > 0",
            default="for good",
            meaning="How long a job that was submitted without --keep is kept after its end.",
        )
    )
    keep_inputs_s: float = field(
        metadata=_setting(
            "KEEP_INPUTS_S",
            "seconds > 0",
            default=f"{DEFAULT_KEEP_INPUTS_S:g} (30 days)",
            meaning="How long the dispatcher keeps input files that were uploaded, since a job was last "
            "submitted with them. Those of jobs that have not ended are always kept.",
        )
    )
    keep_cache_s: float = field(
        metadata=_setting(
            "KEEP_CACHE_S",
            "seconds > 0",
            default=f"{DEFAULT_KEEP_CACHE_S:g} (30 days)",
            meaning="How long encoded data and fetched inputs stay in the cache of a node, encoded corpora "
            "also in BERTJOBS_ENCODED, since a job last used them; a driver that starts removes older ones. "
            "Downloads stay.",
        )
    )
    max_cache_mb: float | None = field(
        metadata=_setting(
            "MAX_CACHE_MB",
            "number > 0",
            default="no limit",
            meaning="Most megabytes of encoded data and fetched inputs in the cache of a node, and of "
            "encoded corpora in BERTJOBS_ENCODED; beyond, what was used least recently goes, if no job may "
            "still read it.",
        )
    )
    max_inputs_mb: float | None = field(
        metadata=_setting(
            "MAX_INPUTS_MB",
            "number > 0",
            default="no limit",
            meaning="Most megabytes of uploaded input files; beyond, the dispatcher removes those that were "
            "used least recently and belong to no job that has not ended.",
        )
    )
    max_ended_jobs: int | None = field(
        metadata=_setting(
            "MAX_ENDED_JOBS",
            "integer >= 1",
            default="no limit",
            meaning="Most ended jobs that Redis keeps; beyond, the dispatcher forgets the oldest, as after "
            "--keep. Their models and results stay in storage.",
        )
    )
    metrics_port: int | None = field(
        metadata=_setting(
            "METRICS_PORT",
            "port",
            meaning="Port on which the dispatcher serves /metrics for Prometheus; unset, it serves none.",
        )
    )
    test_precision: CpuPrecision | None = field(
        metadata=_setting(
            "TEST_PRECISION",
            "bf16 or fp32",
            default="ask the processor",
            meaning="For tests: treat the CPU as one with bf16 arithmetic (emulated if need be), or without.",
        )
    )

    @property
    def is_embedded(self) -> bool:
        """Whether Redis, Ray and the dispatcher are ours to start."""
        return self.redis_url is None and self.ray_address is None and self.server is None

    @property
    def allowed_storage(self) -> tuple[str, ...] | None:
        """Where the storage of jobs may be; None: anywhere."""
        if self.is_embedded or self.is_stack_member:
            return None
        return (self.storage, *self.storage_roots)

    @property
    def encoded_corpora(self) -> str:
        """The folder or address of the encoded corpora: every node reads and writes blocks there."""
        if self.encoded is not None:
            return self.encoded
        return str(self.cache / "encoded") if self.is_one_machine else f"{self.storage}/encoded"

    @property
    def allowed_to_drivers(self) -> tuple[str, ...] | None:
        """Where a driver may write; None: anywhere, as where neither its dispatcher nor its node names a
        storage."""
        is_named = self.storage != str(self.home / "jobs") or self.storage_roots
        return self.allowed_storage if is_named else None

    @property
    def is_one_machine(self) -> bool:
        """Whether jobs certainly run where they are submitted, so that all paths are the same."""
        return self.is_embedded or str(self.redis_url).startswith("unix:")


def settings_table() -> Iterator[Setting]:
    """Yield every variable that `load_settings` reads, in the order of the fields."""
    for found in fields(Settings):
        yield from found.metadata["settings"]


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings; an empty variable counts as unset.

    Raises: ConfigError: a password file that cannot be read, or a variable of the wrong type.
    """
    env = os.environ if environ is None else environ
    home = _path(env, "BERTJOBS_HOME") or Path("~/.bertjobs").expanduser().absolute()
    storage = _storage(env.get("BERTJOBS_STORAGE") or str(home / "jobs"))
    encoded = env.get("BERTJOBS_ENCODED")
    return Settings(
        home=home,
        redis_url=env.get("BERTJOBS_REDIS_URL") or None,
        redis_user=env.get("BERTJOBS_REDIS_USER") or None,
        redis_password=_secret(env, "REDIS_PASSWORD", what="the password"),
        server=env.get("BERTJOBS_SERVER") or None,
        token=_secret(env, "TOKEN", what="the token"),
        redis_ca_file=_path(env, "BERTJOBS_REDIS_CA_FILE"),
        ray_address=env.get("BERTJOBS_RAY_ADDRESS") or None,
        storage=storage,
        storage_roots=_storage_roots(env.get("BERTJOBS_STORAGE_ROOTS") or ""),
        cache=_path(env, "BERTJOBS_CACHE") or home / "cache",
        encoded=_storage(encoded) if encoded else None,
        is_stack_member="BERTJOBS_STACK_MEMBER" in env,
        shared_folders=_shared_folders(storage, env.get("BERTJOBS_SHARED_FOLDERS") or ""),
        max_upload_mb=_positive(env, "BERTJOBS_MAX_UPLOAD_MB", DEFAULT_MAX_UPLOAD_MB, unit="MB"),
        sends_code=_switch(env, "BERTJOBS_SEND_CODE"),
        node_python=env.get("BERTJOBS_NODE_PYTHON") or sys.executable,
        lease_s=_positive(env, "BERTJOBS_LEASE_S", DEFAULT_LEASE_S),
        stall_timeout_s=_positive(env, "BERTJOBS_STALL_TIMEOUT_S", DEFAULT_STALL_TIMEOUT_S),
        start_deadline_s=_positive(env, "BERTJOBS_START_DEADLINE_S", DEFAULT_START_DEADLINE_S),
        max_drivers=_count(env, "BERTJOBS_MAX_DRIVERS"),
        driver_resource=env.get("BERTJOBS_DRIVER_RESOURCE") or None,
        autoscale_gpus=_count(env, "BERTJOBS_AUTOSCALE_GPUS"),
        autoscale_cpus=_count(env, "BERTJOBS_AUTOSCALE_CPUS"),
        collective_timeout_s=_positive(env, "BERTJOBS_COLLECTIVE_TIMEOUT_S", DEFAULT_COLLECTIVE_TIMEOUT_S),
        keep_s=_positive(env, "BERTJOBS_KEEP_S", 0.0) or None,
        keep_inputs_s=_positive(env, "BERTJOBS_KEEP_INPUTS_S", DEFAULT_KEEP_INPUTS_S),
        keep_cache_s=_positive(env, "BERTJOBS_KEEP_CACHE_S", DEFAULT_KEEP_CACHE_S),
        max_cache_mb=_positive(env, "BERTJOBS_MAX_CACHE_MB", 0.0, unit="MB") or None,
        max_inputs_mb=_positive(env, "BERTJOBS_MAX_INPUTS_MB", 0.0, unit="MB") or None,
        max_ended_jobs=_count(env, "BERTJOBS_MAX_ENDED_JOBS"),
        metrics_port=_port(env, "BERTJOBS_METRICS_PORT"),
        test_precision=forced_cpu_precision(env),
    )


def thread_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return how the threads of training processes wait for each other, where the user has not said so.

    torch's OpenMP reads it when it is loaded, so it has to be in the environment of a process that starts.
    Source: the manual of libgomp, GOMP_SPINCOUNT.
    """
    given = os.environ if environ is None else environ
    if not _THREAD_WAITING.isdisjoint(given):
        return {}
    return {"GOMP_SPINCOUNT": str(_SPIN_COUNT)}


def forced_cpu_precision(environ: Mapping[str, str] | None = None) -> CpuPrecision | None:
    """Return the precision that `BERTJOBS_TEST_PRECISION` forces; None where the processor is to be asked.

    Raises: ConfigError: the variable has another value.
    """
    given = (os.environ if environ is None else environ).get("BERTJOBS_TEST_PRECISION")
    if not given:
        return None
    if given == "bf16":
        return "bf16"
    if given == "fp32":
        return "fp32"
    raise ConfigError(
        f"BERTJOBS_TEST_PRECISION={given} is neither bf16 nor fp32",
        hint="Unset it to ask the processor.",
    )


def _path(env: Mapping[str, str], name: str) -> Path | None:
    """Read a path, made absolute: jobs run in other working directories than the one of this process."""
    given = env.get(name)
    return Path(given).expanduser().absolute() if given else None


def _storage(given: str) -> str:
    path = given.removeprefix("file://")
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _storage_roots(given: str) -> tuple[str, ...]:
    return tuple(_storage(root.strip()) for root in given.split(",") if root.strip())


def _shared_folders(storage: str, given: str) -> tuple[Path, ...]:
    named = [Path(folder).expanduser().absolute() for folder in given.split(":") if folder]
    return (*named, Path(storage)) if storage.startswith("/") else tuple(named)


def _secret(env: Mapping[str, str], name: str, *, what: str) -> str | None:
    """Read a secret from its variable, or from the file that the one with `_FILE` names."""
    path = env.get(f"BERTJOBS_{name}_FILE")
    if not path:
        return env.get(f"BERTJOBS_{name}") or None
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        cause = e.strerror if isinstance(e, OSError) else "it is not text"
        raise ConfigError(
            f"BERTJOBS_{name}_FILE={path} cannot be read: {cause}",
            hint=f"Name a file that holds {what} and nothing else, and that this user can read.",
        ) from e


def _switch(env: Mapping[str, str], name: str) -> bool:
    given = env.get(name) or "0"
    if given not in ("0", "1"):
        raise ConfigError(f"{name}={given} is neither 1 nor 0", hint="Set it to 1, or unset it.")
    return given == "1"


def _port(env: Mapping[str, str], name: str) -> int | None:
    given = env.get(name)
    if not given:
        return None
    if not (given.isdecimal() and 0 < int(given) < 65536):
        raise ConfigError(f"{name}={given} is not a port", hint="Give a number from 1 to 65535, or unset it.")
    return int(given)


def _count(env: Mapping[str, str], name: str) -> int | None:
    given = env.get(name)
    if not given:
        return None
    if not (given.isdecimal() and int(given) > 0):
        raise ConfigError(
            f"{name}={given} is not a positive whole number", hint="Give 1 or more, or unset it."
        )
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
            f"{name}={given} is not a positive number of {unit}",
            hint=f"Unset it for {usual}.",
        )
    return value
