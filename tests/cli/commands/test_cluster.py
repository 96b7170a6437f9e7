"""`cluster drain`, `undrain`, `limit`, `clean`, `dashboard JOB`, `list --user` and `--keep`; a real Redis."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bertjobs.cli.commands import cluster as sharing_module
from bertjobs.cli.context import current_user
from bertjobs.jobs.job import State
from bertjobs.jobs.store.job_store import JobStore

Run = Callable[..., Result]
Drive = Callable[[str], Any]

pytestmark = pytest.mark.redis


def submit(store: JobStore, home: Path, **given: Any) -> str:
    job, _ = store.submit(
        "finetune", {}, storage=str(home / "jobs"), resources={}, **{"user": "ada", **given}
    )
    return job.id


def test_draining_says_what_still_runs_and_who_drained(
    run: Run, store: JobStore, drive: Drive, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = drive(submit(store, home))
    me = current_user()
    assert run("cluster", "drain").stdout == f"Drained by {me}; 1 job still running.\n"
    monkeypatch.setattr(sharing_module.time, "sleep", lambda _: driver.end(State.FAILED))
    waited = run("cluster", "drain", "--wait", "--json")
    assert waited.stderr == "1 job still running; Ctrl-C ends the waiting; the queue stays drained.\n"
    document = json.loads(waited.stdout)
    assert (document["drained_by"], document["running"], document["users"]) == (me, 0, [])
    assert document["drained_at"].endswith("Z")
    assert run("cluster", "undrain").stdout == "The queue is open: jobs start again.\n"
    assert json.loads(run("cluster", "undrain", "--json").stdout)["drained_by"] is None


def test_limits_are_set_shown_and_lifted(run: Run, store: JobStore, drive: Drive, home: Path) -> None:
    drive(submit(store, home, user="bob"))
    assert run("cluster", "limit", "ada", "--gpus", "8").stdout.splitlines()[1].split() == ["ada", "8", "0"]
    rows = [line.split() for line in run("cluster", "limit").stdout.splitlines()]
    assert rows == [["USER", "GPU", "LIMIT", "GPUS", "IN", "USE"], ["ada", "8", "0"], ["bob", "-", "0"]]
    assert json.loads(run("cluster", "limit", "--json").stdout)["users"] == [
        {"user": "ada", "max_gpus": 8.0, "held_gpus": 0.0},
        {"user": "bob", "max_gpus": None, "held_gpus": 0.0},
    ]
    lifted = run("cluster", "limit", "ada", "--none")
    assert (lifted.stdout, lifted.stderr) == ("", "ada has no limit.\n")
    for words in (["--gpus", "3"], ["ada", "--gpus", "3", "--none"]):
        wrong = run("cluster", "limit", *words)
        assert wrong.exit_code == 2 and "Give a USER with either --gpus or --none" in wrong.stderr


def test_cleaning_says_what_it_would_do_and_does_it(
    run: Run, store: JobStore, drive: Drive, home: Path
) -> None:
    assert run("cluster", "clean").stderr == "Nothing to clean.\n"
    job = submit(store, home)
    log = home / "jobs" / job / "logs" / "a1.log"
    log.parent.mkdir(parents=True)
    log.write_text("x")
    drive(job).end(State.SUCCEEDED)
    assert run("cluster", "clean").stdout == "", "it has no --keep"
    assert run("cluster", "clean", "--older-than", "1d").stdout == ""
    store.connection.client.hset(f"bj:job:{job}", "ended_at", 1000)
    dry = run("cluster", "clean", "--older-than", "30d", "--dry-run").stdout.splitlines()
    assert dry[1].split() == [job, "to", "be", "forgotten", f"{home}/jobs/{job}", "logs"]
    assert log.exists()
    (document,) = json.loads(run("cluster", "clean", "--older-than", "30d", "--json").stdout)
    assert document == {"id": job, "dir": f"{home}/jobs/{job}", "removed": ["logs"], "forgotten": True}
    assert not log.exists() and run("status", job).exit_code == 2


def test_list_shows_one_users_jobs(run: Run, store: JobStore, home: Path) -> None:
    submit(store, home)
    bobs = submit(store, home, user="bob")
    assert [job["id"] for job in json.loads(run("list", "--user", "bob", "--json").stdout)] == [bobs]
    both = run("list", "--user", "bob", "--mine")
    assert both.exit_code == 2 and "--mine and --user exclude each other\n" in both.stderr


def test_status_and_dashboard_lead_to_the_jobs_page_and_tell_no_token(
    run: Run, store: JobStore, drive: Drive, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret-token")
    job = submit(store, home)
    waiting = run("cluster", "dashboard", job)
    assert waiting.exit_code == 2 and f"{job} is QUEUED and has not been given to Ray yet\n" in waiting.stderr
    assert json.loads(run("status", job, "--json").stdout)["dashboard_url"] is None
    drive(job)
    page = f"http://127.0.0.1:1/#/jobs/bj-{job}-a1"
    assert run("cluster", "dashboard", job).stdout == f"{page}\n"
    assert f"dashboard  {page}\n" in run("status", job).stdout
    as_json = run("status", job, "--json").stdout
    assert json.loads(as_json)["dashboard_url"] == page
    assert "s3cret" not in as_json + run("cluster", "dashboard", job).output


@pytest.mark.parametrize(
    ("words", "setting", "keep_s"),
    [([], None, None), ([], "3600", 3600), (["--keep", "30d"], "3600", 30 * 86400)],
)
def test_a_job_is_kept_as_it_asks_or_as_the_setting_says(
    run: Run,
    store: JobStore,
    sample: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    setting: str | None,
    keep_s: int | None,
) -> None:
    if setting is not None:
        monkeypatch.setenv("BERTJOBS_KEEP_S", setting)
    result = run("submit", "finetune", "--task", "snli", "--data", str(sample / "snli_1.0"), *words)
    job = result.stdout.strip()
    assert store.get(job).keep_s == keep_s
    assert ("30d00h after its end" in run("status", job).stdout) is (words != [])
    store.cancel(job)
    assert store.connection.client.zcard("bj:expiry") == (keep_s is not None)


def test_a_job_whose_model_another_one_uses_knows_it(
    run: Run, store: JobStore, drive: Drive, home: Path, sample: Path
) -> None:
    model = submit(store, home)
    drive(model).end(State.SUCCEEDED)
    words = ("--model", model, "--task", "snli", "--data", str(sample / "snli_1.0"), "--split", "dev")
    user = run("submit", "evaluate", *words).stdout.strip()
    assert store.connection.client.smembers(f"bj:job:{model}:followers") == {user}
