"""`bertjobs top`, played through textual's pilot: what is shown, what the keys do, an outage of Redis."""

import asyncio
import html
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from click.testing import Result
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from bertjobs.cli.top.app import Confirmation, TopApp
from bertjobs.cli.top.queue_reader import QueueReader, Snapshot
from bertjobs.errors import QueueError
from bertjobs.jobs.dispatcher.driver_log import log_name
from bertjobs.jobs.job import Job, JobSummary, State
from bertjobs.jobs.store.connection import JobUnknown, RedisDown

Act = Callable[[Pilot[None], TopApp], Awaitable[None]]
SIZE = (80, 24)


class FakeStore:
    """A queue in memory; each change is noted."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.changes: list[tuple[Any, ...]] = []
        self.is_down = False

    def list(self, *, limit: int) -> list[JobSummary]:
        if self.is_down:
            raise RedisDown("Redis at unix://x cannot be reached")
        return list(self.jobs.values())[:limit]

    def get(self, job_id: str) -> Job:
        if job_id not in self.jobs:
            raise JobUnknown(f"There is no job {job_id}")
        return self.jobs[job_id]

    def metrics(self, job_id: str) -> Any:
        return [{"step": n, "loss": 1 / n, "lr": 1e-4} for n in range(1, 50)]

    def cancel(self, job_id: str, *, by: str) -> Job:
        return self._note("cancel", job_id, by)

    def hold(self, job_id: str, *, by: str) -> Job:
        raise QueueError(f"{job_id} is RUNNING", hint="Only a waiting job can be held.")

    def retry(self, job_id: str) -> Job:
        return self._note("retry", job_id)

    def prioritize(self, job_id: str, priority: int, *, by: str) -> Job:
        return self._note("prioritize", job_id, priority, by)

    def _note(self, *change: Any) -> Job:
        self.changes.append(change)
        return self.jobs[change[1]]


@pytest.fixture
def store(make_job: Callable[..., Job]) -> FakeStore:
    progress = {"step": 20, "num_steps": 40, "loss": 0.5, "examples_per_s": 100.0, "eta_s": 65.0}
    running = make_job(
        id="j-000000001", name="[red]long[/]", user="bob", state=State.RUNNING, progress=progress
    )
    waiting = make_job(
        id="j-000000002", name="next", place=1, reason="InsufficientGpus", message="Needs 8 GPUs, 3 free.",
        resources={"gpus": 8},
    )  # fmt: skip
    ended = make_job(id="j-000000003", state=State.SUCCEEDED, metrics={"accuracy": 0.8125})
    return FakeStore(running, waiting, ended)


def play(store: FakeStore, act: Act, *, size: tuple[int, int] = SIZE) -> None:
    """Start the screen on a queue and act on it."""

    async def run() -> None:
        app = TopApp(QueueReader(open_store=lambda: store), user="ada")  # type: ignore[arg-type,return-value]
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.query_one(DataTable).row_count == len(store.jobs))
            await act(pilot, app)

    asyncio.run(run())


async def until(pilot: Pilot[None], is_so: Callable[[], bool]) -> None:
    """Wait until something is so: reading and changing happen in threads."""
    for _ in range(600):
        await pilot.pause(0.05)
        if is_so():
            return
    raise AssertionError("it did not come true within half a minute")


def screen_text(app: TopApp) -> str:
    """Return what is on the screen: the texts of its picture."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", app.export_screenshot())
    return html.unescape("\n".join(texts)).replace("\xa0", " ")


def text_of(app: TopApp, selector: str) -> str:
    return str(app.screen.query_one(selector, Static).content)


def test_list_and_detail_fit_a_terminal_of_80_by_24(store: FakeStore) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        await until(pilot, lambda: "step 20/40" in text_of(app, "#detail"))
        shown = screen_text(app)
        for cell in ("j-000000002", "QUEUED", "finetune", "ada", "#1 InsufficientGpus: Ne"):
            assert cell in shown
        assert "██████████░░░░░░░░░░ step 20/40, loss 0.5, 100 examples/s, 1m05s left" in shown
        assert "1 RUNNING  1 QUEUED  1 SUCCEEDED   by newest" in shown
        for key in ("Cancel", "Hold", "Release", "Retry", "Priority", "Log", "Find", "Sort", "Ended", "Quit"):
            assert key in shown
        detail = text_of(app, "#detail").splitlines()
        assert detail[0] == "j-000000001  RUNNING  finetune  [red]long[/]"  # markup of users is text
        assert detail[3].startswith("      1 █")
        assert detail[-1].startswith("0.02041 ")

    play(store, act)


def test_a_wide_terminal_also_shows_names_and_ages(store: FakeStore) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        assert "next" in screen_text(app)
        assert "AGE" in screen_text(app)

    play(store, act, size=(120, 30))


@pytest.mark.parametrize(
    ("answer", "changes"), [("y", [("cancel", "j-000000001", "ada")]), ("n", []), ("escape", [])]
)
def test_a_change_is_made_after_a_confirmation(store: FakeStore, answer: str, changes: Any) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("c")
        assert isinstance(app.screen, Confirmation)
        assert app.screen.question == "Cancel j-000000001 ([red]long[/])?"
        app.show(Snapshot(jobs=tuple(store.jobs.values())))  # the queue goes on while it asks
        await pilot.press(answer)
        await until(pilot, lambda: store.changes == changes and not isinstance(app.screen, Confirmation))

    play(store, act)
    assert store.changes == changes


def test_a_refused_change_is_shown_with_what_to_do(store: FakeStore) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("h", "y")
        await until(pilot, lambda: bool(app._notifications))
        (note,) = list(app._notifications)
        assert note.message == "j-000000001 is RUNNING. Only a waiting job can be held."

    play(store, act)


def test_the_priority_is_checked_and_set(store: FakeStore) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("down", "p")
        app.screen.query_one("#priority", Input).value = "1001"
        await pilot.press("enter")
        assert text_of(app, "#question") == "Give a number from -1000 to 1000."
        app.screen.query_one("#priority", Input).value = "-5"
        await pilot.press("enter")
        await until(pilot, lambda: bool(store.changes))

    play(store, act)
    assert store.changes == [("prioritize", "j-000000002", -5, "ada")]


def test_filter_sort_and_hiding_ended_jobs(store: FakeStore) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        table = app.query_one(DataTable)
        await pilot.press("slash", *"gpus fine", "enter")
        assert [row.value for row in table.rows] == ["j-000000002"]
        assert "filter: gpus fine" in text_of(app, "#summary")
        await pilot.press("escape")
        assert table.row_count == 3
        await pilot.press("e")
        assert [row.value for row in table.rows] == ["j-000000001", "j-000000002"]
        await pilot.press("s", "s", "s")
        assert "by GPUs" in text_of(app, "#summary")
        assert [row.value for row in table.rows] == ["j-000000002", "j-000000001"]

    play(store, act)


def test_the_log_takes_the_place_of_the_curve(store: FakeStore, tmp_path: Any) -> None:
    job = replace(store.jobs["j-000000001"], storage=str(tmp_path), num_attempts=1)
    store.jobs[job.id] = job
    job.job_dir.write_bytes(log_name(1), b"first\n\x1b[31mlast\n")

    async def act(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("l")
        await until(pilot, lambda: text_of(app, "#detail").endswith("first\n [31mlast"))

    play(store, act)


def test_an_outage_of_redis_is_shown_and_survived(store: FakeStore) -> None:
    async def act(pilot: Pilot[None], app: TopApp) -> None:
        problem = app.query_one("#problem", Static)
        store.is_down = True
        await until(pilot, lambda: problem.display)
        assert "cannot be reached. Trying again" in screen_text(app)
        assert app.query_one(DataTable).row_count == 3
        store.is_down = False
        await until(pilot, lambda: not problem.display)

    play(store, act)


def test_without_a_terminal_it_says_what_to_use(run: Callable[..., Result]) -> None:
    result = run("top")
    assert result.exit_code == 2
    assert "`bertjobs list` prints the queue" in result.stderr
