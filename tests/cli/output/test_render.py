"""How jobs look: columns that fit the terminal, words for every state, nothing that steers the terminal."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from bertjobs.cli.output import render
from bertjobs.cli.output.formatting import status_line
from bertjobs.jobs.job import Job, State

Make = Callable[..., Job]
PROGRESS = {"step": 7, "num_steps": 40, "loss": 0.51234, "examples_per_s": 1234.5, "eta_s": 3700.0}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Set the width of the terminal; None is a pipe."""
    return lambda columns: monkeypatch.setattr(render, "terminal_width", lambda: columns)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"reason": "ExceedsCluster", "message": "It needs 8 GPUs, the cluster has 0.", "place": 2},
            "#2 ExceedsCluster: It needs 8 GPUs, the cluster has 0.",
        ),
        ({"state": State.HELD, "reason": "Held", "message": "Held by ada."}, "Held by ada."),
        ({"state": State.STARTING, "phase": "reading data"}, "reading data"),
        (
            {"state": State.RUNNING, "progress": PROGRESS},
            "step 7/40, loss 0.5123, 1,234 examples/s, 1h01m left",
        ),
        (
            {"state": State.RUNNING, "progress": {"step": 4, "num_steps": 4}, "phase": "writing predictions"},
            "step 4/4, writing predictions",
        ),
        ({"state": State.FAILED, "reason": "DataError", "message": "no file"}, "DataError: no file"),
        ({"state": State.CANCELLED, "reason": "Cancelled", "message": ""}, "Cancelled"),
    ],
)
def test_a_job_is_said_in_one_line(make_job: Make, changes: dict[str, Any], words: str) -> None:
    assert status_line(make_job(**changes)) == words


def test_every_state_has_words_and_a_colour(make_job: Make) -> None:
    for state in State:
        assert status_line(make_job(state=state, reason="Because")) in ("Because", "", "#1 Because")
        assert state in render.COLOURS


def test_a_succeeded_job_says_how_long_it_took(make_job: Make) -> None:
    start = make_job().submitted_at
    ended = {"started_at": start, "ended_at": start + timedelta(seconds=75)}
    assert status_line(make_job(state=State.SUCCEEDED, **ended)) == "took 1m15s"


def test_nothing_is_cut_where_no_terminal_is(
    make_job: Make, terminal: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(None)
    render.print_jobs([make_job(message="because " * 40)])
    assert capsys.readouterr().out.rstrip().endswith("because " * 39 + "because")


def test_figures_stand_flush_right_and_words_flush_left(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_table(["NAME", "ROWS", "X"], [["a", "5", "-"], ["bcdef", "1,234", "y"]])
    assert capsys.readouterr().out.splitlines() == [
        "NAME    ROWS  X",
        "a          5  -",
        "bcdef  1,234  y",
    ]


def test_a_document_is_valid_json_with_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_json({"name": "日本"})
    output = capsys.readouterr().out
    assert json.loads(output) == {"name": "日本"}
    assert "日本" in output


def test_colours_do_not_reach_a_pipe(make_job: Make, capsys: pytest.CaptureFixture[str]) -> None:
    render.print_jobs([make_job(state=state) for state in State])
    assert not re.search("\x1b", capsys.readouterr().out)
