"""The dispatcher as its process runs it: the loop, the look at Ray in the background, the metrics; Ray's
dashboard is a small server of our own."""

import json
import socket
import threading
import time
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bertjobs.errors import ConfigError
from bertjobs.jobs.dispatcher.loop import run
from bertjobs.jobs.job import State

pytestmark = pytest.mark.redis

NODE = {"node_id": "n1", "state": "ALIVE", "resources_total": {"CPU": 2.0}}
NODES = {"data": {"result": {"result": [NODE]}}}
STATUS = {"data": {"clusterStatus": {"loadMetricsReport": {"usageByNode": {}}}}}


@pytest.fixture
def dashboard():
    """Ray's dashboard: one node, and jobs that run once they were posted."""
    posted = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/api/jobs/").removesuffix("/logs")
            if self.path.startswith("/api/v0/nodes"):
                self.answer(NODES)
            elif self.path == "/api/cluster_status":
                self.answer(STATUS)
            elif name not in posted:
                self.send_error(404)
            elif self.path.endswith("/logs"):
                self.answer({"logs": "hello\n"})
            else:
                self.answer({"status": "RUNNING", "message": None, "driver_exit_code": None})

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            posted[request["submission_id"]] = request
            self.answer({})

        def answer(self, document):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.posted, server.address = posted, f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_loop_starts_a_job_serves_metrics_and_resigns(
    settings, connection, store, submit, dashboard, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-of-sixteen-characters-or-more")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    settings = replace(settings, ray_address=dashboard.address, metrics_port=port, storage=str(tmp_path))
    job_id = submit(storage=str(tmp_path), name="looped")
    log = tmp_path / job_id / "logs" / "a1.log"
    deadline, scraped = time.monotonic() + 60, []
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def is_done():
        assert time.monotonic() < deadline, "the job was never started"
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            scraped.append(answer.read().decode())
        return log.exists() and 'bertjobs_jobs{reason="",state="STARTING"} 1.0' in scraped[-1]

    run(settings, should_stop=is_done)
    assert store.get(job_id).state is State.STARTING and log.read_text() == "hello\n"
    request = dashboard.posted[f"bj-{job_id}-a1"]
    assert request["metadata"] == {"job_id": job_id, "kind": "finetune", "name": "looped", "user": "ada"}
    assert "bertjobs_leader 1.0" in scraped[-1] and "bertjobs_nodes 1.0" in scraped[-1]
    assert store.dispatcher() is None, "the next one need not wait"
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", port)) != 0, "its port is closed"


def test_the_dispatcher_needs_the_address_of_ray(settings):
    with pytest.raises(ConfigError, match="There is no Ray address"):
        run(replace(settings, ray_address=None), should_stop=lambda: True)
