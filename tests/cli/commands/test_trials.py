"""Searches on the command line: what is refused at submit, the table of trials, a trial run again in full."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bertjobs.cli.output.formatting import status_line
from bertjobs.cli.output.live import render_job
from bertjobs.jobs.job import Job, State
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.runs.tune.search_state import SearchState
from bertjobs.text.datasets.sample import write_sample
from three_trials import SEARCH, TRIALS, submit_search

Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path) -> str:
    write_sample(tmp_path)
    return str(tmp_path / "snli_1.0")


@pytest.fixture
def searched(store: JobStore, home: Path) -> Job:
    return submit_search(store, storage=str(home / "jobs"))


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitting wants a Ray; there is none here."""
    monkeypatch.setattr("bertjobs.cli.commands.submit.open_queue", lambda **_: _connect())


def _connect() -> JobStore:
    from bertjobs.cli.context import connect, load_settings

    return connect(load_settings())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "--trials: 0 is not allowed; expected a whole number >= 1"),
        (
            ["--space", "optim.lrr=uniform:0,1"],
            "--space optim.lrr=uniform:0,1: finetune has no parameter optim.lrr",
        ),
        (["--space", "optim.lr=uniform:1e-3,1e-3"], "--space optim.lr=uniform:1e-3,1e-3: the range is empty"),
        (
            ["--space", "optim.lr=uniform:1,0"],
            "--space optim.lr=uniform:1,0: the ends are in the wrong order",
        ),
        (
            ["--space", "optim.lr=loguniform:0,1"],
            "--space optim.lr=loguniform:0,1: loguniform needs ends above 0",
        ),
        (["--space", "nosuch.yaml"], "--space nosuch.yaml: there is no such file"),
        (["--gpus-per-trial", "2"], "--gpus-per-trial: a trial needs 2 GPU(s), but the search has 0 in all"),
        (
            ["--gpus", "2", "--gpus-per-trial", "4"],
            "--gpus-per-trial and --gpus: a trial needs 4 GPU(s), but the search has 2 in all",
        ),
        (
            ["--metric", "bleu"],
            "--metric: bleu is not allowed; choose one of accuracy, mcc, f1, f1_micro, f1_macro, pearson, "
            "spearman, exact, loss, or nothing",
        ),
        (["--lr", "1e-4"], "--lr has no effect: the search varies it"),
        (["--space", "text.max_len=randint:64,1024"], "--max-len 1024: the model tiny has 512 positions\n"),
        (["--algorithm", "grid"], "--trials 32: the grid has 100 points"),
    ],
)
def test_a_wrong_search_exits_2_before_the_queue_is_touched(
    run: Run, data: str, words: list[str], message: str
) -> None:
    result = run("tune", "--data", data, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_search_is_queued_with_its_space(run: Run, store: JobStore, no_ray: None, data: str) -> None:
    result = run(
        "tune", "--data", data, "--trials", "4", "--space", "optim.lr=loguniform:1e-5,1e-4", "--json"
    )
    assert result.exit_code == 0, result.stderr
    job = store.get(json.loads(result.stdout)["id"])
    assert job.kind == "tune"
    assert (job.config["search"]["trials"], job.config["search"]["space"]) == (
        4, {"optim.lr": "loguniform:1e-5,1e-4"},
    )  # fmt: skip
    assert run("submit", "tune", "--data", data).exit_code == 0


def test_a_finetune_preset_is_where_a_search_may_begin(
    run: Run, store: JobStore, no_ray: None, data: str
) -> None:
    result = run("tune", "--preset", "snli-d2l", "--model", "tiny", "--data", data)
    assert result.exit_code == 0, result.stderr
    assert store.get(result.stdout.strip()).config["optim"]["schedule"] == "constant"
    assert "snli-d2l" in run("tune", "--preset", "snli-d2").stderr


def test_trials_are_listed_best_first_with_what_became_of_them(run: Run, searched: Job) -> None:
    lines = run("trials", searched.id).stdout.splitlines()
    assert lines[0].split() == ["TRIAL", "LR", "TRUNCATION", "EPOCH", "ACCURACY", "STATE", "WHY"]
    assert [line.split()[0] for line in lines[1:]] == ["2", "1", "3"]
    assert lines[1].split() == ["2", "0.0002", "ratio", "1.50", "0.7500", "finished"]
    assert lines[2].split()[-2:] == ["stopped", "asha"]
    assert lines[3].endswith("TrainingError: At step 3 of 9 the loss is nan.")
    assert "3 of 3 trials have ended: 1 stopped early by asha, 1 failed." in run("trials", searched.id).stderr


def test_trials_as_json_and_as_csv(run: Run, searched: Job) -> None:
    found = json.loads(run("trials", searched.id, "--json").stdout)
    assert (found["id"], found["metric"], found["best"]) == (searched.id, "accuracy", 2)
    assert (found["num_trials"], found["num_ended"], found["num_stopped_early"], found["num_failed"]) == (
        3,
        3,
        1,
        1,
    )
    assert [t["value"] for t in found["trials"]] == [0.5, 0.75, None]
    rows = list(csv.DictReader(io.StringIO(run("trials", searched.id, "--csv").stdout)))
    assert [(r["trial"], r["optim.lr"], r["accuracy"], r["state"]) for r in rows] == [
        ("1", "0.0001", "0.5", "stopped"),
        ("2", "0.0002", "0.75", "finished"),
        ("3", "0.0003", "", "failed"),
    ]
    assert run("trials", searched.id, "--csv", "--json").exit_code == 2


def test_a_job_that_is_no_search_or_has_not_begun_says_so(run: Run, store: JobStore, home: Path) -> None:
    jobs = {
        kind: store.submit(kind, {}, storage=str(home), resources={}, user="ada")[0].id
        for kind in ("finetune", "tune")
    }
    assert "is a finetune job, not a search\n" in run("trials", jobs["finetune"]).stderr
    result = run("trials", jobs["tune"])
    assert result.exit_code == 2
    assert "is QUEUED and has no trials yet\n" in result.stderr


@pytest.mark.parametrize(("suffix", "number"), [("", 2), (":1", 1)])
def test_a_trial_s_configuration_goes_over_the_defaults_and_under_the_flags(
    run: Run, store: JobStore, searched: Job, no_ray: None, data: str, suffix: str, number: int
) -> None:
    result = run(
        "submit", "finetune", "--from-trial", f"{searched.id}{suffix}", "--data", data, "--epochs", "7"
    )
    assert result.exit_code == 0, result.stderr
    config = store.get(result.stdout.strip()).config
    assert config["optim"]["lr"] == round(number * 1e-4, 6)
    assert (config["text"]["truncation"], config["train"]["epochs"]) == ("ratio", 7)
    assert config["resources"]["gpus"] == 0  # what it may use is this job's
    assert config["origin"]["from_trial"] == f"{searched.id}:{number}"


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        (":9", "that search has no trial 9"),
        (":x", "x is not the number of a trial"),
        (":", "nothing is not the number of a trial"),
    ],
)
def test_a_trial_that_there_is_not_is_refused(
    run: Run, searched: Job, data: str, suffix: str, message: str
) -> None:
    result = run("submit", "finetune", "--from-trial", f"{searched.id}{suffix}", "--data", data)
    assert result.exit_code == 2
    assert f"--from-trial {searched.id}{suffix}: {message}" in result.stderr


def test_status_list_and_the_live_picture_show_the_trials(
    run: Run, store: JobStore, searched: Job, drive: Callable[[str], Any], make_job: Callable[..., Job]
) -> None:
    state = SearchState(searched.job_dir, search=SEARCH, trials=TRIALS[:2])
    state.begin(3, TRIALS[2].values, {})
    report = state.progress({3: {"step": 7, "epoch": 0.4, "examples_per_s": 61.0}})
    drive(searched.id).lease.report(progress=report)
    said = "2/3 trials, 1 stopped early, best accuracy 0.75 (trial 2), 61 examples/s"
    status = run("status", searched.id).stdout
    assert "RUNNING" in status
    assert said in status
    assert ["3", "0.0003", "ratio", "0.40", "-", "running"] in [line.split() for line in status.splitlines()]
    assert said in run("list").stdout
    job = make_job(kind="tune", state=State.RUNNING, progress=report, phase="starting trials")
    assert status_line(job) == said
    assert said in rendered(render_job(job, losses=(), width=100))
    done = make_job(kind="tune", state=State.RUNNING, progress={**report, "num_ended": 3}, phase="writing")
    assert status_line(done).endswith(", writing")


def rendered(what: Any) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=120)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]
