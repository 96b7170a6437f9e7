"""Ray's REST API: start, query and stop one Ray Job per attempt, and list the nodes. Knows nothing of Redis.

Sends the HTTP requests itself: Ray's `JobSubmissionClient` sends them without a timeout, and a dashboard that
hangs would hang the dispatcher.

The only module that uses undocumented routes of Ray's dashboard, as they are in Ray 2.60: `/api/v0/nodes`,
`/api/v0/actors`, `/api/cluster_status` and `/api/packages/gcs/`. A test starts a real Ray and fails first
when one changes.
"""

import codecs
import http.client
import json
import logging
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.errors import QueueError
from bertjobs.jobs.scheduling.types import Cluster, Node

if TYPE_CHECKING:
    from bertjobs.jobs.ray.code_package import CodePackage

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
READ_BYTES = 2**16
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


class RayUnreachable(QueueError):
    """Ray's dashboard does not answer. Nothing may be concluded from that about a job."""


class RayUnauthorized(RayUnreachable):
    """Ray's dashboard answers and refuses our token, or asks for one."""


class RayRefused(QueueError):
    """Ray answered with an error."""


@dataclass(frozen=True, kw_only=True)
class RayJob:
    """What Ray reports about one job. FAILED may mean only that Ray's monitor lost contact with a living
    driver."""

    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    exit_code: int | None = None
    """Of the driver's process, once Ray saw it end."""
    ray_id: str | None = None
    """Ray's own id of what the driver has started; None before its driver has connected."""
    has_actors: bool = False
    """Whether some of its actors live, as far as that was asked; see `RayApi.has_actors`."""

    @property
    def has_ended(self) -> bool:
        """Whether Ray has finished with it."""
        return self.status in ENDED

    @property
    def has_exited(self) -> bool:
        """Whether the driver's process is certainly gone."""
        return self.status in ("SUCCEEDED", "STOPPED") or self.exit_code is not None


DRIVER_BYTES = 450e6
"""Memory of a driver: 422 MB were measured."""
MIN_DRIVERS = 4.0
"""On any head: what Ray counts as memory is what was free when it started."""


class RayApi:
    """A Ray cluster behind its dashboard's address. Every call raises RayUnreachable or RayRefused."""

    def __init__(
        self,
        address: str,
        *,
        token: str | None,
        code: "CodePackage | None" = None,
        driver_resource: str | None = None,
    ) -> None:
        """driver_resource: the resource of Ray that a driver takes one of; None: drivers run on the head."""
        self._address = address.rstrip("/")
        self._driver_resource = driver_resource
        self._code = code
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def version(self) -> str:
        """Return the version of Ray."""
        return str(self._call("GET", "/api/version")["ray_version"])

    def requires_token(self) -> bool:
        """Return whether the dashboard refuses a request without a token.

        Raises: RayUnreachable: it does not answer at all.
        """
        try:
            RayApi(self._address, token=None).version()
        except RayUnauthorized:
            return True
        return False

    def cluster(self) -> Cluster:
        """Return the living nodes with their totals and what is in use (a few seconds old)."""
        nodes = self._call("GET", "/api/v0/nodes?detail=1&limit=10000")["data"]["result"]["result"]
        status = self._call("GET", "/api/cluster_status")["data"]["clusterStatus"]
        used = status["loadMetricsReport"]["usageByNode"] if status else {}
        return Cluster(
            nodes=tuple(
                Node(
                    id=node["node_id"],
                    cpus=_amount(node["resources_total"], "CPU"),
                    gpus=_amount(node["resources_total"], "GPU"),
                    used_cpus=_used(used, node["node_id"], "CPU"),
                    used_gpus=_used(used, node["node_id"], "GPU"),
                    driver_slots=self._driver_slots(node),
                )
                for node in nodes
                if node["state"] == "ALIVE"
            )
        )

    def _driver_slots(self, node: Mapping[str, Any]) -> float | None:
        if self._driver_resource is not None:
            return _amount(node["resources_total"], self._driver_resource)
        # Without a resource for them all drivers run on the head; 0: it does not say its memory.
        memory_bytes = _amount(node["resources_total"], "memory") if node.get("is_head_node") else 0.0
        return max(MIN_DRIVERS, memory_bytes // DRIVER_BYTES) if memory_bytes else None

    def start(
        self, submission_id: str, *, entrypoint: str, env: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        """Start a Ray Job; succeed too if it has been started already, as a submission id is unique.

        The dashboard shows `metadata`.
        """
        request = {
            "entrypoint": entrypoint,
            "submission_id": submission_id,
            "runtime_env": {"env_vars": dict(env), **self._upload_code()},
            "metadata": dict(metadata),
        }
        if self._driver_resource is not None:
            request["entrypoint_resources"] = {self._driver_resource: 1}
        try:
            self._call("POST", "/api/jobs/", request)
        except (RayUnreachable, RayRefused):
            # The race: the request may have been carried out although its answer was an error, or was lost.
            if self.job(submission_id) is None:
                raise

    def job(self, submission_id: str) -> RayJob | None:
        """Return one job; None if Ray does not know it."""
        try:
            found = self._call("GET", f"/api/jobs/{submission_id}")
        except _NotFound:
            return None
        return RayJob(
            status=found["status"],
            message=found["message"] or "",
            exit_code=found["driver_exit_code"],
            ray_id=found.get("job_id"),
        )

    def has_actors(self, job: RayJob) -> bool:
        """Return whether actors of a job live, which have not outlived it on purpose (`detached`).

        Where Ray cannot say it, which a version of it may, they count as gone, as the job's record does.
        """
        if job.ray_id is None:
            return False
        filters = [("job_id", "=", job.ray_id), ("state", "!=", "DEAD")]
        names = ("filter_keys", "filter_predicates", "filter_values")
        query = urllib.parse.urlencode([pair for f in filters for pair in zip(names, f, strict=True)])
        try:
            answer = self._call("GET", f"/api/v0/actors?detail=1&limit=100&{query}")
            found = answer["data"]["result"]["result"]
        except (RayRefused, KeyError, TypeError) as e:
            logger.warning("Ray does not list the actors of job %s: %s", job.ray_id, e)
            return False
        return any(not actor.get("is_detached") for actor in found)

    def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job. It takes seconds and may have no effect while PENDING: query the job
        again."""
        try:
            self._call("POST", f"/api/jobs/{submission_id}/stop")
        except _NotFound:
            return

    def log(self, submission_id: str) -> Iterator[bytes]:
        """Yield what the driver has written so far, in pieces; nothing if Ray has lost it.

        Ray has only this route that works for every job, and it answers with the whole log in one JSON text.
        A log may have gigabytes, so the answer is decoded as it comes.
        """
        try:
            with self._open("GET", f"/api/jobs/{submission_id}/logs") as response:
                yield from _decode_log(iter(lambda: response.read1(READ_BYTES), b""))
        except _NotFound:
            return
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise self._unreachable(e) from e

    def _upload_code(self) -> dict[str, list[str]]:
        """Upload our package to where all nodes get it, unless it is there; the query extends its
        lifetime."""
        if self._code is None:
            return {}
        path = f"/api/packages/gcs/{self._code.name}"
        try:
            self._request("GET", path)
        except _NotFound:
            self._request("PUT", path, self._code.content)
        return {"py_modules": [f"gcs://{self._code.name}"]}

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        answer = self._request(method, path, None if body is None else json.dumps(body).encode())
        try:
            return json.loads(answer)
        except ValueError as e:
            raise self._unreachable(e) from e

    def _request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        with self._open(method, path, data) as response:
            try:
                return bytes(response.read())
            except (OSError, http.client.HTTPException, ValueError) as e:
                raise self._unreachable(e) from e

    def _open(self, method: str, path: str, data: bytes | None = None) -> Any:
        request = urllib.request.Request(
            self._address + path, method=method, headers=self._headers, data=data
        )
        try:
            return _opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as e:
            with e:
                raise self._http_error(e.code, e.read().decode(errors="replace")) from e
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise self._unreachable(e) from e

    def _unreachable(self, e: Exception) -> RayUnreachable:
        return RayUnreachable(
            f"Ray at {self._address} does not answer ({_cause(e)})",
            hint="Start it, or correct BERTJOBS_RAY_ADDRESS (the dashboard's, http://host:8265).",
        )

    def _http_error(self, code: int, text: str) -> QueueError:
        if code == 404:
            return _NotFound(text)
        if code in (401, 403):
            return RayUnauthorized(
                f"Ray at {self._address} refuses us ({code})",
                hint="Set RAY_AUTH_TOKEN_PATH to a file with the cluster's token where the dispatcher runs.",
            )
        if code in (502, 503, 504):  # from a proxy in front of a dashboard that is down
            return RayUnreachable(f"Ray at {self._address} does not answer ({code})")
        lines = text.strip().splitlines() or [f"HTTP {code}"]
        return RayRefused(f"Ray refused: {lines[-1]}")


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a cluster is not behind a web proxy


class _NotFound(RayRefused):
    """Ray does not know the job or the file."""


_LOG_BEGINS = re.compile(r'\s*\{\s*"logs"\s*:\s*(?:"|null)')
_LOG_TEXT = re.compile(r'(?:[^"\\]+|\\u[0-9a-fA-F]{4}|\\[^u])*+')
"""Characters of a JSON text up to its end, or up to an escape that is not all there yet."""


def _decode_log(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Decode `{"logs": "..."}` as it comes, in bounded memory. Raises: ValueError: it is something else."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    begun, rest, high = False, "", ""
    for piece in pieces:
        rest += decoder.decode(piece)
        if not begun:
            start = _LOG_BEGINS.match(rest)
            if start is None:
                if len(rest) > READ_BYTES:
                    break
                continue
            if start[0].endswith("null"):
                return
            begun, rest = True, rest[start.end() :]
        found = _LOG_TEXT.match(rest)
        assert found is not None, "it matches nothing too"
        text = high + json.loads(f'"{found[0]}"', strict=False)
        rest = rest[found.end() :]
        # Half of a character outside the basic plane waits for its other half.
        high = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        text = text.removesuffix(high)
        yield text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
        if rest.startswith('"'):
            return
    raise ValueError("the log is no JSON text, or was cut off")


def ray_token(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the cluster's token from where Ray itself looks for it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, the
    home folder.

    Raises: QueueError: the file that RAY_AUTH_TOKEN_PATH names cannot be read.
    """
    env = os.environ if environ is None else environ
    if env.get("RAY_AUTH_MODE") == "disabled":
        return None
    if env.get("RAY_AUTH_TOKEN"):
        return env["RAY_AUTH_TOKEN"].strip()
    named = env.get("RAY_AUTH_TOKEN_PATH")
    try:
        if named:
            return Path(named).expanduser().read_text().strip()
        default = Path.home() / ".ray" / "auth_token"
        return default.read_text().strip() if default.is_file() else None
    except OSError as e:
        raise QueueError(f"The Ray token in {named or default} cannot be read: {e.strerror}") from e


def _amount(resources: Mapping[str, float], name: str) -> float:
    return resources.get(name, 0.0)  # Ray leaves out resources that a node lacks


def _used(usage: Mapping[str, Mapping[str, list[float]]], node_id: str, name: str) -> float:
    if node_id not in usage or name not in usage[node_id]:
        return 0.0
    return usage[node_id][name][0]


def _cause(e: Exception) -> str:
    reason = e.reason if isinstance(e, urllib.error.URLError) else e
    return str(reason) or type(reason).__name__
