"""Changing jobs: by whom, one and many."""

from collections.abc import Callable
from typing import Any

import pytest

from bertjobs.jobs.access import Role
from bertjobs.jobs.job import State
from bertjobs.jobs.store.job_store import JobStore

pytestmark = pytest.mark.redis

Submit = Callable[..., str]
LogIn = Callable[..., Any]


def test_each_action_does_what_its_command_does(
    browser: Any, submit: Submit, store: JobStore, drive: Callable[[str], Any]
) -> None:
    job = submit()
    for action, state in [
        ("hold", "HELD"),
        ("release", "QUEUED"),
        ("cancel", "CANCELLED"),
        ("retry", "QUEUED"),
    ]:
        answer = browser.post(f"/api/v1/jobs/{job}/{action}")
        assert (answer.status, answer.json["job"]["state"]) == (200, state), action
        assert str(store.get(job).state) == state
    drive(job).step(1)
    assert browser.post(f"/api/v1/jobs/{job}/cancel").json["job"]["state"] == "CANCELLING"
    assert store.get(job).message == "Cancelled by ada."


def test_the_priority_decides_the_place(browser: Any, submit: Submit) -> None:
    submit()
    second = submit()
    answer = browser.post(f"/api/v1/jobs/{second}/priority", {"priority": 5}).json["job"]
    assert (answer["priority"], answer["place"]) == (5, 1)
    for wrong in (None, "5", 1.5, True, 1001):
        answer = browser.post(f"/api/v1/jobs/{second}/priority", {"priority": wrong})
        assert answer.status == 400
        assert answer.json["error"]["message"] == "`priority` has to be a whole number from -1000 to 1000"


def test_many_jobs_are_changed_and_those_that_cannot_be_are_named(
    browser: Any, submit: Submit, store: JobStore
) -> None:
    jobs = [submit() for _ in range(3)]
    store.cancel(jobs[1])
    answer = browser.post("/api/v1/jobs/actions", {"action": "hold", "jobs": [*jobs, "j-000000000"]})
    assert answer.status == 200
    results = answer.json["results"]
    assert [result["id"] for result in results] == [*jobs, "j-000000000"]
    assert [result["ok"] for result in results] == [True, False, True, False]
    assert results[0]["job"]["state"] == "HELD"
    assert results[1]["error"] == {
        "code": "WrongState",
        "message": f"{jobs[1]} is CANCELLED",
        "hint": "Only a waiting job can be held; `bertjobs cancel` ends it.",
    }
    assert results[3]["error"]["code"] == "JobUnknown"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"action": "explode", "jobs": ["j-000000000"]}, "action='explode' is unknown"),
        ({"action": "cancel"}, "`jobs` has to be a list of 1 to 500 ids"),
        ({"action": "cancel", "jobs": []}, "`jobs` has to be a list of 1 to 500 ids"),
        ({"action": "cancel", "jobs": ["j-000000000"] * 501}, "`jobs` has to be a list of 1 to 500 ids"),
        ({"action": "cancel", "jobs": ["j-0"]}, "'j-0' is not the id of a job"),
        ({"action": "cancel", "jobs": ["../x"]}, "'../x' is not the id of a job"),
        ([1], "The request has to be one JSON object"),
    ],
)
def test_a_request_that_is_wrong_changes_nothing(browser: Any, body: Any, message: str) -> None:
    answer = browser.post("/api/v1/jobs/actions", body)
    assert (answer.status, answer.json["error"]["message"]) == (400, message)


def test_a_job_is_named_in_full_and_an_unknown_action_is_404(browser: Any, submit: Submit) -> None:
    job = submit()
    assert browser.post(f"/api/v1/jobs/{job[:6]}/cancel").status == 400
    assert browser.post(f"/api/v1/jobs/{job}/explode").status == 404
    assert browser.get(f"/api/v1/jobs/{job}/cancel").status in (404, 405)


def test_a_user_changes_own_jobs_only_a_reader_none_and_an_operator_all(
    logged_in: LogIn, submit: Submit, store: JobStore
) -> None:
    job = submit(user="ada")
    eve, reader = logged_in("eve", Role.USER), logged_in("ada", Role.READER)
    for action in ("cancel", "hold", "priority", "retry", "release"):
        refused = eve.post(f"/api/v1/jobs/{job}/{action}", {"priority": 1})
        assert (refused.status, refused.json["error"]["code"]) == (403, "Forbidden")
        assert refused.json["error"]["message"] == f"{job} belongs to ada, and eve may change own jobs only"
        refused = reader.post(f"/api/v1/jobs/{job}/{action}", {"priority": 1})
        assert refused.status == 403
        assert refused.json["error"]["message"] == "ada has the role reader and may change no job"
    many = eve.post("/api/v1/jobs/actions", {"action": "cancel", "jobs": [job]}).json["results"]
    assert (many[0]["ok"], many[0]["error"]["code"]) == (False, "Forbidden")
    assert store.get(job).state is State.QUEUED
    assert logged_in("ada", Role.USER).post(f"/api/v1/jobs/{job}/hold").status == 200
    assert logged_in("root", Role.OPERATOR).post(f"/api/v1/jobs/{job}/cancel").status == 200
    assert store.get(job).message == "Cancelled by root."


def test_nobody_changes_a_job_without_a_login_or_from_another_origin(
    stranger: Any, browser: Any, submit: Submit, store: JobStore
) -> None:
    job = submit()
    assert stranger.post(f"/api/v1/jobs/{job}/cancel").status == 401
    assert browser.post(f"/api/v1/jobs/{job}/cancel", Origin="http://evil.example").status == 403
    assert store.get(job).state is State.QUEUED
