"""Following a job: what is shown when, what Ctrl-C does, and a Redis that goes away for a while."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console

from bertjobs.cli.output.follow import REDIS_PATIENCE_S, LineDisplay, choose_display, follow, wait_for
from bertjobs.cli.output.live import LiveDisplay, render_job, sparkline
from bertjobs.errors import QueueError
from bertjobs.jobs.job import Job, State

Make = Callable[..., Job]


class Course:
    """Returns one state of a job after the other; an error among them is raised."""

    def __init__(self, moments: Sequence[Job | BaseException]) -> None:
        self._moments = list(moments)

    def __call__(self, job_id: str) -> Job:
        now = self._moments.pop(0) if len(self._moments) > 1 else self._moments[0]
        if isinstance(now, BaseException):
            raise now
        return now


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


def running(make_job: Make, step: int, **changes: Any) -> Job:
    progress = {"step": step, "num_steps": 40, "loss": 1 / step, "examples_per_s": 50.0, "eta_s": 9.0}
    return make_job(state=State.RUNNING, progress=progress, **changes)


def test_lines_are_written_when_something_changes_and_every_few_seconds(make_job: Make) -> None:
    out, clock = io.StringIO(), Clock()
    steps = [running(make_job, step) for step in range(1, 41)]
    moments = [
        make_job(reason="ExceedsCluster", message="No GPU."),
        make_job(reason="ExceedsCluster", message="No GPU."),
        make_job(state=State.STARTING, phase="reading data"),
        *steps,
        make_job(state=State.SUCCEEDED),
    ]
    job = follow(
        Course(moments), "j-1", display=LineDisplay(out, clock=clock), sleep=clock.sleep, clock=clock
    )
    lines = out.getvalue().splitlines()
    assert job.state is State.SUCCEEDED
    assert lines[:2] == [
        "j-1t4k7wx3m  QUEUED  ExceedsCluster: No GPU.",
        "j-1t4k7wx3m  STARTING  reading data",
    ]
    assert [re.sub(r".*step (\d+).*", r"\1", line) for line in lines[2:]] == ["1", "18", "35"]


def test_a_redis_that_comes_back_is_waited_for(make_job: Make) -> None:
    clock, gone = Clock(), QueueError("Redis is away.")
    course = Course([make_job(), *[gone] * 20, make_job(state=State.SUCCEEDED)])
    display = LineDisplay(io.StringIO(), clock=clock)
    assert follow(course, "j-1", display=display, sleep=clock.sleep, clock=clock).state is State.SUCCEEDED
    assert clock.now_s < REDIS_PATIENCE_S


def test_a_redis_that_stays_away_ends_the_following(make_job: Make) -> None:
    clock = Clock()
    course = Course([make_job(), QueueError("Redis is away.")])
    with pytest.raises(QueueError, match="Redis is away"):
        follow(course, "j-1", display=LineDisplay(io.StringIO()), sleep=clock.sleep, clock=clock)
    assert REDIS_PATIENCE_S < clock.now_s < REDIS_PATIENCE_S + 1


def test_an_unknown_job_is_an_error_at_once() -> None:
    with pytest.raises(QueueError, match="no job"):
        follow(Course([QueueError("There is no job j-1.")]), "j-1", display=LineDisplay(io.StringIO()))


def test_ctrl_c_detaches_and_says_how_to_come_back(
    make_job: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    course = Course([make_job(), KeyboardInterrupt()])
    assert wait_for(course, "j-1", as_json=True, display=LineDisplay(io.StringIO())) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Detached; j-1 keeps running. `bertjobs wait j-1` waits for it again" in captured.err
    assert "`bertjobs cancel j-1` cancels it." in captured.err


@pytest.mark.parametrize(
    ("state", "code"),
    [(State.SUCCEEDED, 0), (State.FAILED, 1), (State.CANCELLED, 1), (State.TIMED_OUT, 1)],
)
def test_the_exit_code_is_the_jobs(
    make_job: Make, capsys: pytest.CaptureFixture[str], state: State, code: int
) -> None:
    job = make_job(state=state, reason="Why", message="Because.", metrics={"accuracy": 0.75, "labels": []})
    assert wait_for(Course([job]), job.id, as_json=False, display=LineDisplay(io.StringIO())) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    if code:
        assert f"error: {job.id} {state}: Why: Because." in captured.err
        assert f"`bertjobs logs {job.id}` shows its log" in captured.err
    else:
        assert "SUCCEEDED" in captured.err
        assert "accuracy 0.75" in captured.err


def test_a_terminal_gets_the_live_display_and_a_pipe_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    assert isinstance(choose_display(terminal), LiveDisplay)
    assert isinstance(choose_display(io.StringIO()), LineDisplay)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_live_display_fits_its_terminal(make_job: Make, width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    job = running(make_job, 40, phase="writing [red]x[/red]", name="[bold]mine")
    console.print(render_job(job, losses=[2.0, 1.0, 0.5], width=width))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "step 40/40" in text
    assert "writing [red]x[/red]" in text
    assert "[bold]mine" in text
    if width >= 80:
        assert "50 examples/s  9s left" in text
        assert "█▃▁ 0.5" in text


def test_the_live_display_of_a_waiting_job_says_why(make_job: Make) -> None:
    out = io.StringIO()
    job = make_job(reason="ExceedsCluster", message="It needs [8] GPUs.")
    Console(file=out, width=80).print(render_job(job, losses=[], width=80))
    assert "ExceedsCluster: It needs [8] GPUs." in out.getvalue()


def test_a_sparkline_is_averaged_to_its_width() -> None:
    assert sparkline([1.0, 1.0], width=10) == "▁▁"
    assert sparkline([0.0, 7.0], width=10) == "▁█"
    line = sparkline([float(n) for n in range(1000)], width=8)
    assert line == "▁▂▃▄▅▆▇█"


def test_the_live_display_runs_a_whole_course(make_job: Make) -> None:
    out, clock = io.StringIO(), Clock()
    course = Course(
        [make_job(), *(running(make_job, n) for n in range(1, 4)), make_job(state=State.SUCCEEDED)]
    )
    assert (
        follow(course, "j-1", display=LiveDisplay(out), sleep=clock.sleep, clock=clock).state
        is State.SUCCEEDED
    )
    assert "SUCCEEDED" in out.getvalue()
