"""What open pages are told, and when."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertjobs.jobs.access import Role
from bertjobs.jobs.job import State
from bertjobs.jobs.store.connection import Connection, RedisDown
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.jobs.store.token_store import TokenStore
from bertjobs.web import events as web_events
from bertjobs.web import feed as web_feed
from bertjobs.web.feed import RESYNC, Feed, QueueWatch, Subscriber
from bertjobs.web.services import Services

pytestmark = pytest.mark.redis

Submit = Callable[..., str]


def test_the_queue_tells_of_new_changed_and_running_jobs(
    browser: Any, submit: Submit, store: JobStore, drive: Callable[[str], Any]
) -> None:
    first = submit()
    with browser.listen("/api/v1/events") as events:
        assert events.next("hello")["counts"]["QUEUED"] == 1
        second = submit(name="<b>new</b>")
        told = events.next("jobs")
        assert [(job["id"], job["name"]) for job in told["jobs"]] == [(second, "<b>new</b>")]
        assert (told["counts"]["QUEUED"], told["is_complete"]) == (2, True)
        driver = drive(first)
        driver.step(1, loss=0.9)
        while (told := events.next("jobs"))["counts"]["RUNNING"] == 0:
            pass
        driver.step(2, loss=0.8)
        told = events.next("jobs")
        assert [(job["id"], job["progress"]["step"]) for job in told["jobs"]] == [(first, 2)]
        store.cancel(second)
        store.connection.run("forget", id=second)
        told = events.next("jobs")
        assert told["removed"] == [second]


def test_a_job_is_followed_from_its_first_step_to_the_end_of_its_log(
    browser: Any, submit: Submit, drive: Callable[[str], Any], tmp_path: Path
) -> None:
    job = submit()
    log = tmp_path / "jobs" / job / "logs" / "a1.log"
    log.parent.mkdir(parents=True)
    log.write_text("before\n")
    with browser.listen(f"/api/v1/jobs/{job}/events") as events:
        assert events.next("job")["state"] == "QUEUED"
        driver = drive(job)
        driver.step(1, loss=0.9)
        assert events.next("job")["state"] in ("STARTING", "RUNNING")
        line = events.next("metrics")["lines"][0]
        assert (line["kind"], line["step"], line["loss"]) == ("step", 1, 0.9)
        with log.open("a") as file:
            file.write("<i>more</i>\n")
        part = events.next("log")
        assert (part["attempt"], part["offset"], part["text"]) == (1, 7, "<i>more</i>\n")
        driver.end(State.FAILED, reason="DataError", message="<script>")
        entry = events.next("timeline")
        assert (entry["state"], entry["message"]) == ("FAILED", "<script>")
        events.next("end")
        assert list(events) == [], "the server closes the stream"


def test_a_job_that_has_ended_is_shown_and_its_stream_closed(
    browser: Any, submit: Submit, store: JobStore
) -> None:
    job = submit()
    store.cancel(job)
    with browser.listen(f"/api/v1/jobs/{job}/events") as events:
        assert events.next("job")["state"] == "CANCELLED"
        events.next("end")
    assert browser.get("/api/v1/jobs/j-000000000/events").status == 404


def test_two_pages_of_one_job_are_told_the_same(
    browser: Any, submit: Submit, drive: Callable[[str], Any]
) -> None:
    job = submit()
    driver = drive(job)
    path = f"/api/v1/jobs/{job}/events"
    with browser.listen(path) as one, browser.listen(path) as other:
        assert one.next("job") == other.next("job")
        driver.step(1)
        assert one.next("metrics") == other.next("metrics")


def test_a_stream_needs_a_login_and_ends_when_its_token_is_revoked(
    stranger: Any, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stranger.get("/api/v1/events").status == 401
    monkeypatch.setattr(web_events, "PING_S", 0.05)
    _, text = TokenStore(connection).add("bob", role=Role.READER, expires_s=60, by="ada")
    with stranger.log_in(text).listen("/api/v1/events") as events:
        events.next("hello")
        TokenStore(connection).revoke("bob")
        assert [name for name, _ in events] == []


def test_after_an_outage_of_redis_pages_are_told_to_start_again(
    services: Services, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [(), RedisDown("away"), RedisDown("away"), (b"news",)]

    def turn(_watch: QueueWatch) -> Any:
        answer = answers.pop(0) if answers else ()
        if isinstance(answer, RedisDown):
            raise answer
        return answer

    async def listen() -> list[bytes | None]:
        feed = Feed(services)
        subscriber = await feed.listen(None)
        told = [await subscriber.queue.get() for _ in range(3)]
        feed.close()
        return told

    monkeypatch.setattr(web_feed, "TURN_S", 0.001)
    monkeypatch.setattr(QueueWatch, "turn", turn)
    assert asyncio.run(listen())[1:] == [RESYNC, b"news"]


def test_a_page_that_does_not_read_is_told_to_start_again() -> None:
    subscriber = Subscriber()
    for _ in range(500):
        subscriber.send(b"x")
    waiting = [subscriber.queue.get_nowait() for _ in range(subscriber.queue.qsize())]
    assert waiting[0] == RESYNC
    assert len(waiting) <= 200
