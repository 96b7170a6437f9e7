"""The list of jobs, and one job."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from bertjobs.cli.main import main
from bertjobs.jobs.access import Role
from bertjobs.jobs.job import State
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.settings import Settings

pytestmark = pytest.mark.redis

Submit = Callable[..., str]
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command on the same Redis and return its JSON."""
    monkeypatch.setenv("BERTJOBS_HOME", str(settings.home))
    monkeypatch.setenv("BERTJOBS_REDIS_URL", str(settings.redis_url))
    monkeypatch.setenv("BERTJOBS_RAY_ADDRESS", str(settings.ray_address))
    return lambda *words: json.loads(CliRunner().invoke(main, list(words), catch_exceptions=False).stdout)


def ids_of(answer: Any) -> list[str]:
    assert answer.status == 200, answer.body
    return [job["id"] for job in answer.json["jobs"]]


def test_the_list_has_the_rows_that_the_command_prints(
    browser: Any, submit: Submit, drive: Callable[[str], Any], run: Callable[..., Any]
) -> None:
    running = submit(name="first")
    submit(name="second", hold=True)
    submit(user="bob", resources={"gpus": 8})
    drive(running).step(3, loss=0.25)
    answer = browser.get("/api/v1/jobs").json
    assert answer["jobs"] == run("list", "--json")
    assert [job["state"] for job in answer["jobs"]] == ["QUEUED", "HELD", "RUNNING"]
    assert {state for state, count in answer["counts"].items() if count} == {"QUEUED", "HELD", "RUNNING"}
    assert (answer["total"], answer["offset"], answer["limit"]) == (3, 0, 50)
    assert (answer["kinds"], answer["users"]) == (["finetune"], ["ada", "bob"])


def test_pages_are_filtered_and_sorted_over_all_jobs(browser: Any, submit: Submit, store: JobStore) -> None:
    jobs = [
        submit(
            "tune" if n == 4 else "finetune",
            name=f"Run u{n}",
            user="bob" if n % 2 else "ada",
            priority=n,
        )
        for n in range(6)
    ]
    store.cancel(jobs[0])

    def listed(query: str) -> list[str]:
        return ids_of(browser.get(f"/api/v1/jobs?{query}"))

    assert listed("") == jobs[::-1]
    assert listed("sort=submitted_at&limit=2&offset=2") == jobs[2:4]
    assert listed("limit=500&offset=5") == jobs[:1]
    assert listed("offset=6") == []
    assert listed("user=bob") == [jobs[5], jobs[3], jobs[1]]
    assert listed("kind=tune") == [jobs[4]]
    assert listed("kind=tune&kind=finetune&user=ada&state=QUEUED") == [jobs[4], jobs[2]]
    assert listed("state=cancelled") == [jobs[0]]
    assert listed("q=RUN+u3") == [jobs[3]]
    assert listed(f"q={jobs[2]}+ada") == [jobs[2]]
    assert listed("q=nothing") == []
    assert listed("sort=place") == [*jobs[:0:-1], jobs[0]], "the highest priority is first in the queue"
    assert listed("sort=-priority")[0] == jobs[5]
    assert listed("sort=-ended_at")[0] == jobs[0], "jobs without a value are last either way"
    assert listed("sort=ended_at")[0] == jobs[0]
    assert browser.get("/api/v1/jobs?user=bob&limit=1").json["total"] == 3


def test_a_list_shows_what_has_changed_since_the_last_one(
    browser: Any, submit: Submit, store: JobStore, drive: Callable[[str], Any]
) -> None:
    first = submit()
    assert ids_of(browser.get("/api/v1/jobs?state=QUEUED")) == [first]
    driver, second = drive(first), submit()
    assert ids_of(browser.get("/api/v1/jobs?state=QUEUED")) == [second]
    driver.step(1)
    assert ids_of(browser.get("/api/v1/jobs?state=RUNNING")) == [first]
    driver.end(State.SUCCEEDED)
    assert ids_of(browser.get("/api/v1/jobs?state=SUCCEEDED")) == [first]
    store.connection.run("forget", id=first)
    assert ids_of(browser.get("/api/v1/jobs")) == [second]
    store.connection.client.flushall()
    assert ids_of(browser.get("/api/v1/jobs")) == []


def test_a_pipeline_is_what_is_connected_by_after(browser: Any, submit: Submit) -> None:
    first, other = submit(), submit()
    second = submit(after=[first])
    third = submit(after=[second])
    for job in (first, second, third):
        assert ids_of(browser.get(f"/api/v1/jobs?pipeline={job}&sort=submitted_at")) == [first, second, third]
    assert ids_of(browser.get(f"/api/v1/jobs?pipeline={other}")) == [other]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=0", "limit=0 is not a whole number from 1 to 500"),
        ("limit=x", "limit=x is not a whole number from 1 to 500"),
        ("offset=-1", "offset=-1 is not a whole number from 0 to 2147483648"),
        ("sort=loss", "sort=loss is unknown"),
        ("state=GONE", "state=GONE is unknown"),
    ],
)
def test_a_wrong_parameter_is_named(browser: Any, query: str, message: str) -> None:
    answer = browser.get(f"/api/v1/jobs?{query}")
    assert (answer.status, answer.json["error"]["code"]) == (400, "BadRequest")
    assert answer.json["error"]["message"] == message


def test_one_job_has_all_that_status_prints(
    browser: Any, submit: Submit, drive: Callable[[str], Any], run: Callable[..., Any]
) -> None:
    job = submit()
    follower = submit(after=[job])
    drive(job).step(2)
    found = browser.get(f"/api/v1/jobs/{job}").json
    printed = run("status", job, "--json")
    assert {key: found[key] for key in printed} == printed
    assert found["followers"] == [follower]
    assert found["actions"] == ["cancel"]
    assert found["dashboard"] == f"ray/#/jobs/bj-{job}-a1"
    assert browser.get(f"/api/v1/jobs/{follower}").json["after"] == [job]


def test_an_unknown_job_is_404(browser: Any, submit: Submit) -> None:
    submit()
    answer = browser.get("/api/v1/jobs/j-000000000")
    assert (answer.status, answer.json["error"]["code"]) == (404, "JobUnknown")
    assert answer.json["error"]["message"] == "There is no job j-000000000"
    assert browser.get("/api/v1/jobs/..%2f..%2fetc").status == 404


def test_names_and_messages_with_markup_are_data_in_json(
    browser: Any, submit: Submit, store: JobStore
) -> None:
    job = submit(name=HOSTILE, user=HOSTILE)
    store.hold(job, by=HOSTILE)
    for path in ("/api/v1/jobs", f"/api/v1/jobs/{job}"):
        answer = browser.get(path)
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.json["name"] == answer.json["user"] == HOSTILE
    assert HOSTILE in answer.json["message"]


def test_a_reader_and_another_user_can_look_and_have_no_actions(
    logged_in: Callable[..., Any], submit: Submit
) -> None:
    job, waiting = submit(user="bob"), ("cancel", "hold", "priority")
    seen = {
        (user, role): logged_in(user, role).get(f"/api/v1/jobs/{job}").json["actions"]
        for user, role in [
            ("bob", Role.READER),
            ("eve", Role.USER),
            ("bob", Role.USER),
            ("eve", Role.OPERATOR),
        ]
    }
    assert list(seen.values()) == [[], [], [*waiting], [*waiting]]


def test_redis_that_is_away_is_said_so(browser: Any, submit: Submit, redis_server: Any) -> None:
    submit()
    redis_server.kill()
    try:
        answer = browser.get("/api/v1/jobs")
        assert (answer.status, answer.json["error"]["code"]) == (503, "RedisDown")
    finally:
        redis_server.start()
    assert browser.get("/api/v1/jobs").status == 200
