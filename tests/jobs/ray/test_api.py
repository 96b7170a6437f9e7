"""Ray's REST interface: refusals by a small server of our own, and everything once against a real Ray."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import ray

from bertjobs.errors import QueueError
from bertjobs.jobs.dispatcher import supervisor as supervisor_module
from bertjobs.jobs.dispatcher.attempt_policy import Timeouts
from bertjobs.jobs.dispatcher.driver_log import log_name
from bertjobs.jobs.dispatcher.log_copier import LogCopier
from bertjobs.jobs.dispatcher.loop import Dispatcher, driver_environment
from bertjobs.jobs.dispatcher.result_reader import ResultReader
from bertjobs.jobs.job import State
from bertjobs.jobs.ray.api import RayApi, RayJob, RayRefused, RayUnreachable, _decode_log, ray_token
from bertjobs.jobs.ray.poller import RayPoller
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.storage import StorageRoots


@pytest.fixture
def dashboard():
    """A web server that answers from a table: (method, path) -> (code, body)."""
    answers, seen = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.command, self.path, self.headers["Authorization"]))
            code, body = answers[self.command, self.path]
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.do_GET()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.answers, server.seen = answers, seen
    server.address = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_routes_of_rays_dashboard_that_we_use_are_still_there():
    """Fails first when another version of Ray changes them; only those under /api/jobs/ are documented."""
    modules = Path(ray.__file__).parent / "dashboard" / "modules"
    heads = "\n".join(path.read_text() for path in modules.rglob("*_head.py"))
    routes = set(re.findall(r'@routes\.(\w+)\("([^"]+)"\)', heads))
    used = {
        ("get", "/api/version"),
        ("get", "/api/v0/nodes"),
        ("get", "/api/v0/actors"),
        ("get", "/api/cluster_status"),
        ("get", "/api/packages/{protocol}/{package_name}"),
        ("put", "/api/packages/{protocol}/{package_name}"),
        ("post", "/api/jobs/"),
        ("get", "/api/jobs/{job_or_submission_id}"),
        ("post", "/api/jobs/{job_or_submission_id}/stop"),
        ("get", "/api/jobs/{job_or_submission_id}/logs"),
    }
    assert used <= routes, sorted(used - routes)


INFO = json.dumps({"status": "RUNNING", "message": None, "driver_exit_code": None})


def test_a_submission_that_ray_says_exists_is_adopted(dashboard):
    dashboard.answers["POST", "/api/jobs/"] = (500, "Traceback ...\nValueError: Job x already exists")
    dashboard.answers["GET", "/api/jobs/x"] = (200, INFO)
    RayApi(dashboard.address, token="secret").start("x", entrypoint="true", env={}, metadata={})
    assert [seen[:2] for seen in dashboard.seen] == [("POST", "/api/jobs/"), ("GET", "/api/jobs/x")]
    assert {seen[2] for seen in dashboard.seen} == {"Bearer secret"}


def test_a_failed_submission_shows_the_last_line_of_rays_traceback(dashboard):
    dashboard.answers["POST", "/api/jobs/"] = (500, "Traceback ...\nNo available agent to submit job\n")
    dashboard.answers["GET", "/api/jobs/x"] = (404, "Job x does not exist")
    with pytest.raises(RayRefused, match="Ray refused: No available agent"):
        RayApi(dashboard.address, token=None).start("x", entrypoint="true", env={}, metadata={})


def test_a_job_that_ray_does_not_know_is_none_and_stopping_it_is_not_an_error(dashboard):
    for method, path in (("GET", "/api/jobs/x"), ("POST", "/api/jobs/x/stop"), ("GET", "/api/jobs/x/logs")):
        dashboard.answers[method, path] = (404, "Job x does not exist")
    ray = RayApi(dashboard.address, token=None)
    ray.stop("x")
    assert ray.job("x") is None and list(ray.log("x")) == []


ACTORS = (
    "/api/v0/actors?detail=1&limit=100&filter_keys=job_id&filter_predicates=%3D&filter_values=02000000"
    "&filter_keys=state&filter_predicates=%21%3D&filter_values=DEAD"
)


@pytest.mark.parametrize(
    ("code", "actors", "has_actors"),
    [
        (200, [], False),
        (200, [{"state": "ALIVE", "is_detached": True}], False),
        (200, [{"state": "ALIVE", "is_detached": True}, {"state": "ALIVE", "is_detached": False}], True),
        (500, [], False),
    ],
)
def test_actors_of_a_job_count_unless_they_are_detached_or_ray_cannot_list_them(
    dashboard, caplog, code, actors, has_actors
):
    dashboard.answers["GET", ACTORS] = (code, json.dumps({"data": {"result": {"result": actors}}}))
    api, job = RayApi(dashboard.address, token=None), RayJob(status="FAILED", message="", ray_id="02000000")
    assert api.has_actors(job) is has_actors
    assert ("does not list the actors of job 02000000" in caplog.text) is (code == 500)
    assert not api.has_actors(replace(job, ray_id=None)), "its driver has never connected"


LOG = 'a "quoted" \\ \\ud83d line\n' + "\t\N{GRINNING FACE}é\x00\n" * 50


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10**6])
def test_a_log_is_decoded_as_it_comes_whatever_the_pieces(size, ensure_ascii):
    answer = json.dumps({"logs": LOG}, ensure_ascii=ensure_ascii).encode()
    pieces = [answer[first : first + size] for first in range(0, len(answer), size)]
    assert b"".join(_decode_log(pieces)).decode() == LOG
    with pytest.raises(ValueError, match="cut off"):
        list(_decode_log([answer[:-5]]))


def test_a_huge_log_takes_no_memory():
    piece = ("x" * 1000 + "\\n").encode() * 60

    def pieces():
        yield b'{"logs": "'
        for _ in range(1000):
            yield piece
        yield b'"}'

    tracemalloc.start()
    length = sum(len(decoded) for decoded in _decode_log(pieces()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert length == 60_060_000 and peak < 4_000_000


def test_a_log_is_read_and_what_is_no_log_is_an_unreachable_ray(dashboard):
    ray = RayApi(dashboard.address, token=None)
    dashboard.answers["GET", "/api/jobs/x/logs"] = (200, json.dumps({"logs": LOG}))
    assert b"".join(ray.log("x")).decode() == LOG
    dashboard.answers["GET", "/api/jobs/x/logs"] = (200, '{"logs": null}')
    assert list(ray.log("x")) == []
    dashboard.answers["GET", "/api/jobs/x/logs"] = (200, "<html>")
    with pytest.raises(RayUnreachable):
        list(ray.log("x"))


@pytest.mark.parametrize(
    ("code", "words"), [(401, "RAY_AUTH_TOKEN_PATH"), (403, "RAY_AUTH_TOKEN_PATH"), (503, "does not answer")]
)
def test_a_refused_token_and_a_proxy_without_ray_are_an_unreachable_ray(dashboard, code, words):
    dashboard.answers["GET", "/api/jobs/x"] = (code, "no")
    with pytest.raises(RayUnreachable, match=words):
        RayApi(dashboard.address, token=None).job("x")


def test_an_address_without_a_server_and_a_reply_without_json_are_an_unreachable_ray(dashboard):
    with pytest.raises(RayUnreachable, match="BERTJOBS_RAY_ADDRESS"):
        RayApi("http://127.0.0.1:1", token=None).job("x")
    dashboard.answers["GET", "/api/jobs/x"] = (200, "<html>")
    with pytest.raises(RayUnreachable):
        RayApi(dashboard.address, token=None).job("x")


def test_the_token_is_found_where_ray_looks_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert ray_token({}) is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    (tmp_path / "named").write_text("named\n")
    assert ray_token({}) == "home"
    named = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "named")}
    assert ray_token(named) == "named"
    assert ray_token(named | {"RAY_AUTH_TOKEN": "given"}) == "given"
    assert ray_token(named | {"RAY_AUTH_MODE": "disabled"}) is None
    with pytest.raises(QueueError, match="cannot be read"):
        ray_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})


def test_the_drivers_environment_says_how_threads_wait(settings, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    given = replace(settings, redis_url="redis://host:6379/0")
    assert driver_environment(given)["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "GOMP_SPINCOUNT" not in driver_environment(given)


def test_the_drivers_environment_contains_no_password(settings):
    given = replace(settings, redis_password="s3cret")
    env = driver_environment(given)
    assert "s3cret" not in str(env)
    assert set(env) >= {"BERTJOBS_REDIS_URL", "BERTJOBS_RAY_ADDRESS", "BERTJOBS_LEASE_S", "BERTJOBS_HOME"}
    assert "BERTJOBS_HOME" not in driver_environment(replace(given, redis_url="redis://host:6379/0"))
    assert "BERTJOBS_ENCODED" not in env
    assert driver_environment(replace(given, encoded="s3://bucket"))["BERTJOBS_ENCODED"] == "s3://bucket"


@pytest.fixture(scope="module")
def ray_address(tmp_path_factory):
    """A Ray head of our own on free ports, with a token, ended as a process group."""
    folder = tmp_path_factory.mktemp("r", numbered=False)
    token = folder / "token"
    token.write_text("a-token-of-sixteen-characters-or-more")
    scratch = tempfile.mkdtemp(prefix="bj-ray-")  # Ray's unix sockets need a short path
    ports = free_ports(4)
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    command += ["--dashboard-host=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0"]
    command += ["--disable-usage-stats", f"--temp-dir={scratch}"]
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with open(folder / "ray.log", "wb") as log:  # noqa: PTH123
        head = subprocess.Popen(command, env=env, start_new_session=True, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{ports[1]}"
    ray = RayApi(address, token=token.read_text())
    try:
        wait_for(lambda: not_raising(lambda: ray.cluster().nodes), seconds=120)
        yield ray, address, env
    finally:
        end_group(head)
        shutil.rmtree(scratch, ignore_errors=True)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def end_group(head):
    head.send_signal(signal.SIGTERM)  # `ray start --block` stops what it started
    try:
        head.wait(timeout=30)
    except subprocess.TimeoutExpired:
        head.kill()
        head.wait()
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(head.pid, signum)
        except ProcessLookupError:
            return
        time.sleep(1)


DRIVER = """
import os, sys, time
sys.path.insert(0, {root!r})
from bertjobs.jobs.driver.session import JobSession
from bertjobs.settings import load_settings
job_id, attempt, token = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with JobSession.open(load_settings(), job_id=job_id, attempt=attempt, token=token) as session:
    with session.keep_alive():
        session.start()
        print("attempt", attempt, "from", session.job.checkpoint, flush=True)
        session.progress({{"step": 1}})
        if attempt == 1:
            session.publish_checkpoint("step-1", 1)
            print("pid", os.getpid(), flush=True)
            time.sleep(600)
        session.finish("SUCCEEDED", metrics={{"accuracy": 1.0}})
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.redis
def test_on_a_real_ray_a_killed_driver_is_replaced_and_the_job_succeeds(
    ray_address, settings, connection, store, submit, tmp_path, monkeypatch
):
    ray, address, _ = ray_address
    (node,) = ray.cluster().nodes
    assert (node.cpus, node.gpus, node.used_gpus) == (2, 0, 0)
    with pytest.raises(RayUnreachable, match="refuses us"):
        RayApi(address, token="wrong").cluster()
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(root=str(Path(supervisor_module.__file__).parents[2])))
    monkeypatch.setattr(supervisor_module, "DRIVER", (str(driver),))
    settings = replace(settings, ray_address=address, lease_s=5)
    dispatch = DispatchStore(connection, owner="test", lease_s=60)
    poller = RayPoller(ray)
    poller.start()
    logs = LogCopier(dispatch, ray, roots=StorageRoots([str(tmp_path)]))
    logs.start()
    dispatcher = Dispatcher(
        dispatch,
        ray,
        poller,
        env=driver_environment(settings),
        timeouts=Timeouts(lease_s=5),
        logs=logs,
        results=ResultReader(roots=StorageRoots([str(tmp_path)])),
    )

    def reaches(condition):
        wait_for(lambda: dispatcher.run_pass() and condition(), seconds=120)

    job_id = submit(storage=str(tmp_path))
    log = tmp_path / job_id / log_name(1)
    reaches(lambda: log.exists() and "pid" in log.read_text())
    assert store.get(job_id).state is State.RUNNING
    os.kill(int(log.read_text().split("pid ")[1].split()[0]), signal.SIGKILL)
    reaches(lambda: store.get(job_id).state.is_terminal)
    reaches(lambda: store.get(job_id).attempt.log_is_complete)
    job = store.get(job_id)
    assert (job.state, job.num_attempts, job.metrics) == (State.SUCCEEDED, 2, {"accuracy": 1.0})
    assert "DriverLost" in job.attempts[0].message
    assert "attempt 2 from step-1" in (tmp_path / job_id / log_name(2)).read_text()

    second = submit(storage=str(tmp_path))
    reaches(lambda: store.get(second).state is State.RUNNING)
    store.cancel(second)
    reaches(lambda: store.get(second).state is State.CANCELLED)
    reaches(lambda: store.get(second).attempt.log_is_complete)
    assert connection.client.scard("bj:live") == 0
    poller.close()
    logs.close()


WITH_ACTOR = """
import time, ray
ray.init(address="auto", logging_level=40)
@ray.remote(num_cpus=0)
class Actor:
    def ping(self):
        return "pong"
kept = [Actor.remote(), Actor.options(lifetime="detached", name="stays").remote()]
print(ray.get([actor.ping.remote() for actor in kept]), flush=True)
time.sleep(600)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_on_a_real_ray_the_actors_of_a_job_are_seen_until_they_are_gone(ray_address, tmp_path):
    ray = ray_address[0]
    script = tmp_path / "driver.py"
    script.write_text(WITH_ACTOR)
    ray.start("bj-actors", entrypoint=f"{sys.executable} {script}", env={}, metadata={})
    wait_for(lambda: "pong" in b"".join(ray.log("bj-actors")).decode(), seconds=120)
    assert ray.has_actors(ray.job("bj-actors"))
    ray.stop("bj-actors")
    # The detached one lives on, and holds nothing that an attempt was granted.
    wait_for(lambda: ray.job("bj-actors").has_ended and not ray.has_actors(ray.job("bj-actors")), seconds=60)


def not_raising(call):
    try:
        return call()
    except RayUnreachable:
        return None


def wait_for(condition, *, seconds):
    """Poll processes outside; the deadline only bounds a failure."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


def nodes_of(monkeypatch, api, *totals):
    nodes = [
        {"node_id": f"n{i}", "state": "ALIVE", "is_head_node": i == 0, "resources_total": total}
        for i, total in enumerate(totals)
    ]
    replies = {
        "/api/v0/nodes?detail=1&limit=10000": {"data": {"result": {"result": nodes}}},
        "/api/cluster_status": {"data": {"clusterStatus": None}},
    }
    monkeypatch.setattr(api, "_call", lambda _method, path: replies[path])
    return api.cluster()


def test_the_memory_of_the_head_limits_the_drivers(monkeypatch):
    api = RayApi("http://nowhere", token=None)
    cluster = nodes_of(monkeypatch, api, {"CPU": 8, "memory": 9e9}, {"CPU": 8, "memory": 99e9})
    assert cluster.driver_slots == 20
    assert nodes_of(monkeypatch, api, {"CPU": 8, "memory": 1e9}).driver_slots == 4
    assert nodes_of(monkeypatch, api, {"CPU": 8}).driver_slots is None


def test_drivers_run_on_the_nodes_that_carry_their_resource(monkeypatch):
    api = RayApi("http://nowhere", token=None, driver_resource="bertjobs_driver")
    cluster = nodes_of(monkeypatch, api, {"CPU": 8, "memory": 9e9}, {"CPU": 8, "bertjobs_driver": 6})
    assert cluster.driver_slots == 6
    assert nodes_of(monkeypatch, api, {"CPU": 8, "memory": 9e9}).driver_slots == 0
    asked = []
    monkeypatch.setattr(api, "_call", lambda *call: asked.append(call))
    api.start("bj-1", entrypoint="x", env={}, metadata={})
    assert asked[0][2]["entrypoint_resources"] == {"bertjobs_driver": 1}
