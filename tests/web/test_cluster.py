"""The cluster's nodes and who holds them, and Ray's dashboard behind the login."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from bertjobs.jobs.ray.api import RayApi
from bertjobs.jobs.scheduling.types import Cluster, Node
from bertjobs.jobs.store.page_store import PageStore
from bertjobs.web.cluster import nodes_document
from bertjobs.web.ray_proxy import is_allowed
from bertjobs.web.services import Services

pytestmark = pytest.mark.redis

Submit = Callable[..., str]


class FakeDashboard(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    seen: ClassVar[list[dict[str, str]]] = []

    def do_GET(self) -> None:
        self.seen.append({"path": self.path, **dict(self.headers.items())})
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Set-Cookie", "theirs=1")
        self.end_headers()
        self.wfile.write(b"<p>ray</p>" * 100_000)

    def log_message(self, *_args: object) -> None:
        """Be quiet."""


@pytest.fixture
def dashboard(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """Let the server's Ray be a fake one, with a token; return the requests that it gets."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeDashboard)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    FakeDashboard.seen.clear()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ray-secret")
    services.given = replace(services.given, ray_address=f"http://127.0.0.1:{server.server_port}")
    yield FakeDashboard.seen
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_dashboard_is_sent_with_rays_token_and_without_our_cookie(
    browser: Any, dashboard: list[dict[str, str]]
) -> None:
    answer = browser.get("/ray/api/jobs/?view=all&x=a%20b", Accept="text/html")
    assert (answer.status, answer.body) == (200, b"<p>ray</p>" * 100_000)
    (request,) = dashboard
    assert request["path"] == "/api/jobs/?view=all&x=a+b"
    assert request["Authorization"] == "Bearer ray-secret"
    assert "Cookie" not in request
    assert "Set-Cookie" not in answer.headers
    assert not any("ray-secret" in value for value in answer.headers.values())
    here = f"http://127.0.0.1:{browser.port}/ray/"
    assert f"connect-src {here};" in answer.headers["Content-Security-Policy"]
    assert "'self'" not in answer.headers["Content-Security-Policy"]
    assert browser.get("/ray").headers["Location"] == "ray/"


def test_the_dashboard_needs_a_login_and_only_reads(
    browser: Any, stranger: Any, dashboard: list[dict[str, str]]
) -> None:
    assert stranger.get("/ray/").status == 401
    assert browser.post("/ray/api/jobs/").status in (404, 405)
    assert browser.get("/ray/worker/cpu_profile?pid=1").status == 404
    assert browser.get("/ray/..%2f..%2fapi/v1/jobs").status in (403, 404)
    assert dashboard == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("", True),
        ("static/js/main.js", True),
        ("api/jobs/bj-j-1-a1", True),
        ("nodes?view=summary", True),
        ("api/packages/gcs/x.zip", False),
        ("api/v0/delay/100", False),
        ("worker/traceback", False),
        ("task/cpu_profile", False),
        ("test/dump", False),
        ("api/../worker/traceback", False),
    ],
)
def test_what_loads_processes_or_serves_code_is_left_out(path: str, allowed: bool) -> None:
    assert is_allowed(path) is allowed


def test_a_ray_that_does_not_answer_is_said_so(browser: Any, submit: Submit) -> None:
    submit()
    answer = browser.get("/ray/")
    assert (answer.status, answer.json["error"]["code"]) == (502, "RayUnreachable")
    found = browser.get("/api/v1/cluster").json
    assert found["ray"]["reachable"] is False
    assert found["ray"]["problem"].startswith("Ray at http://127.0.0.1:1 does not answer")
    assert found["status"]["members"]["ray"]["state"] == "unreachable"


def test_a_ray_that_answers_otherwise_does_not_keep_the_rest_from_being_shown(
    browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayApi, "cluster", lambda ray: {}["data"])
    found = browser.get("/api/v1/cluster").json
    assert found["ray"]["reachable"] is False
    assert found["ray"]["problem"].endswith("is not known to this version.")
    assert found["counts"]["QUEUED"] == 0


def test_the_cluster_shows_who_holds_what_and_why_others_wait(
    browser: Any, submit: Submit, drive: Callable[[str], Any]
) -> None:
    running, held = submit(name="<b>x</b>"), submit(hold=True)
    driver = drive(running)
    driver.step(1)
    found = browser.get("/api/v1/cluster").json
    (node,) = found["nodes"]
    assert (node["id"], node["cpus"], node["held_cpus"], node["held_gpus"]) == ("n1", None, 3.0, 1.0)
    assert [(job["id"], job["name"], job["gpus"]) for job in node["jobs"]] == [(running, "<b>x</b>", 1.0)]
    assert found["waiting"] == [
        {
            "reason": "Held",
            "num_jobs": 1,
            "message": "Held at submission; `bertjobs release` puts it into the queue.",
            "example": held,
        }
    ]
    assert found["users"] == [{"user": "ada", "max_gpus": None, "held_gpus": 1.0}]
    assert (found["dispatcher"], found["drained_by"]) == ("test", None)
    assert found["counts"]["RUNNING"] == 1
    json.dumps(found)


def test_a_node_shows_its_totals_and_the_jobs_on_it(
    services: Services, submit: Submit, drive: Callable[[str], Any]
) -> None:
    drive(submit())
    live = PageStore(services.connection).live()
    cluster = Cluster(nodes=(Node(id="n1", cpus=8, gpus=2, used_cpus=3), Node(id="n2", cpus=4, gpus=0)))
    one, two = nodes_document(cluster, live)
    assert (one["cpus"], one["held_cpus"], one["used_cpus"], len(one["jobs"])) == (8, 3.0, 3, 1)
    assert (two["id"], two["held_gpus"], two["jobs"]) == ("n2", 0, [])
    services.close()
