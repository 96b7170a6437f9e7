"""The commands on jobs against a real Redis: list, status, steering, wait, logs, plot."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bertjobs.cli.context import current_user
from bertjobs.jobs.job import State
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.job_store import JobStore

Run = Callable[..., Result]
Drive = Callable[[str], Any]

pytestmark = pytest.mark.redis


def submit(store: JobStore, home: Path, *, name: str = "", user: str = "ada") -> str:
    job, _ = store.submit(
        "finetune", {"task": {"name": "snli"}}, storage=str(home / "jobs"), resources={}, name=name, user=user
    )
    return job.id


def test_list_shows_the_newest_first_with_reason_and_progress(
    run: Run, store: JobStore, drive: Drive, home: Path
) -> None:
    running, waiting = submit(store, home, name="first"), submit(store, home, name="second")
    drive(running).step(3, loss=0.25)
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["ID", "STATE", "KIND", "NAME", "USER", "AGE", "STATUS"]
    assert lines[1].startswith(f"{waiting}  QUEUED ")
    assert lines[1].endswith("#1 Submitted: No dispatcher has looked at the job yet.")
    assert lines[2].startswith(f"{running}  RUNNING")
    assert lines[2].endswith("step 3/40, loss 0.25, 123.4 examples/s, 1m05s left")


def test_an_empty_list_prints_nothing_on_stdout(run: Run, store: JobStore) -> None:
    result = run("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("No jobs.")
    assert json.loads(run("list", "--json").stdout) == []


def test_list_selects_by_state_user_and_number(run: Run, store: JobStore, home: Path) -> None:
    ids = [submit(store, home, user=current_user() if n == 2 else "eve") for n in range(4)]
    store.cancel(ids[0])

    def listed(*words: str) -> list[str]:
        return [job["id"] for job in json.loads(run("list", "--json", *words).stdout)]

    assert listed() == listed("--all") == ids[::-1]
    assert listed("--limit", "2") == ids[:1:-1]
    assert listed("--state", "cancelled") == ids[:1]
    assert listed("--state", "CANCELLED", "--state", "QUEUED") == ids[::-1]
    assert listed("--mine") == [ids[2]]
    assert "These are the newest 2 jobs; `--all` shows all." in run("list", "--limit", "2").stderr


def test_status_tells_the_whole_story(run: Run, store: JobStore, drive: Drive, home: Path) -> None:
    job = submit(store, home, name="whole")
    driver = drive(job)
    driver.step(40)
    score = {"label": "neutral", "precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 8}
    driver.end(
        State.SUCCEEDED,
        metrics={"accuracy": 0.8125, "per_class": [score], "confusion": [[1]]},
        artifacts={"model": f"{home}/jobs/{job}/model"},
    )
    output = run("status", job).stdout
    assert output.startswith(f"{job}  SUCCEEDED  took ")
    for part in ("name       whole", "user       ada", f"model      {home}/jobs/{job}/model"):
        assert part in output
    assert "accuracy  0.8125" in output
    assert ["neutral", "0.500", "0.250", "0.333", "8"] in [line.split() for line in output.splitlines()]
    timeline = [line.split()[2] for line in output.partition("Timeline\n")[2].splitlines()]
    assert timeline == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]


def test_status_as_json_has_stable_keys(run: Run, store: JobStore, drive: Drive, home: Path) -> None:
    job = submit(store, home)
    drive(job).step(2)
    document = json.loads(run("status", job[:-1], "--json").stdout)
    assert {"id", "kind", "state", "reason", "attempts", "metrics", "artifacts"} <= set(document)
    assert {"submitted_at", "started_at", "ended_at", "config", "history", "events"} <= set(document)
    assert {"dir", "model", "predictions", "plots"} <= set(document["artifacts"])
    assert (document["id"], document["state"], document["progress"]["step"]) == (job, "RUNNING", 2)
    assert datetime.fromisoformat(document["submitted_at"]).utcoffset() is not None
    assert [a["submission_id"] for a in document["history"]] == [f"bj-{job}-a1"]
    assert document["events"][0]["state"] == "QUEUED"


@pytest.mark.parametrize(
    "command", ["status", "wait", "watch", "logs", "plot", "cancel", "retry", "hold", "release"]
)
def test_an_unknown_job_exits_2(run: Run, store: JobStore, command: str) -> None:
    result = run(command, "j-nobody")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: There is no job j-nobody\n hint: `bertjobs list --all` shows the jobs.\n"
    )


def test_a_waiting_job_is_held_released_cancelled_and_retried(run: Run, store: JobStore, home: Path) -> None:
    job = submit(store, home)
    course = ("hold", "HELD"), ("release", "QUEUED"), ("cancel", "CANCELLED"), ("retry", "QUEUED")
    for command, state in course:
        result = run(command, job)
        assert (result.exit_code, result.stdout) == (0, f"{job}  {state}\n")
    assert json.loads(run("cancel", job, "--json").stdout)["state"] == "CANCELLED"


def test_what_a_state_does_not_allow_is_refused_and_the_others_are_done(
    run: Run, store: JobStore, drive: Drive, home: Path
) -> None:
    first, second = submit(store, home), submit(store, home)
    drive(first).end(State.SUCCEEDED)
    result = run("cancel", first, second)
    assert (result.exit_code, result.stdout) == (2, f"{second}  CANCELLED\n")
    assert f"error: {first} has already ended as SUCCEEDED; there is nothing to cancel" in result.stderr
    assert run("release", second).exit_code == 2
    several = run("retry", second, first, "--json")
    assert [job["id"] for job in json.loads(several.stdout)] == [second]


def test_wait_on_an_ended_job_answers_at_once(run: Run, store: JobStore, drive: Drive, home: Path) -> None:
    good, bad = submit(store, home), submit(store, home)
    drive(good).end(State.SUCCEEDED, metrics={"accuracy": 0.75})
    drive(bad).end(State.FAILED, reason="DataError", message="train.jsonl, line 3: no JSON.")
    result = run("wait", good, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["metrics"] == {"accuracy": 0.75}
    failed = run("wait", bad, "--json")
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["reason"] == "DataError"
    assert f"error: {bad} FAILED: DataError: train.jsonl, line 3: no JSON." in failed.stderr
    assert run("watch", bad).exit_code == 1
    assert run("wait", bad).stdout == ""


def test_logs_are_those_of_the_latest_attempt_unless_another_is_named(
    run: Run, store: JobStore, drive: Drive, home: Path
) -> None:
    job = submit(store, home)
    driver = drive(job)
    folder = home / "jobs" / job / "logs"
    folder.mkdir(parents=True)
    (folder / "a1.log").write_bytes("één\n".encode())
    assert run("logs", job).stdout == "één\n"
    driver.end(State.FAILED)
    store.retry(job)
    drive(job)
    (folder / "a2.log").write_text("two\n")
    assert run("logs", job).stdout == "two\n"
    assert run("logs", job, "--attempt", "1").stdout == "één\n"
    dispatcher = DispatchStore(store.connection, owner="test", lease_s=60)
    assert dispatcher.lead()
    dispatcher.note_log(job, 1, outcome="incomplete")
    assert run("logs", job, "--attempt", "1").stderr == (
        f"The log of attempt 1 is incomplete: its end could not be copied from Ray to {folder / 'a1.log'}.\n"
    )
    missing = run("logs", job, "--attempt", "3")
    assert missing.exit_code == 2
    assert f"--attempt 3: {job} has had 2 attempts\n" in missing.stderr


def test_a_job_without_a_log_says_so_on_stderr(run: Run, store: JobStore, home: Path) -> None:
    job = submit(store, home)
    result = run("logs", job)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{job} is QUEUED and has no log yet.\n"
    store.cancel(job)
    assert run("logs", "-f", job).exit_code == 0


def test_plot_draws_what_redis_has_heard_of_a_running_job(
    run: Run, store: JobStore, drive: Drive, home: Path, tmp_path: Path
) -> None:
    job = submit(store, home)
    assert "has not reported a step yet" in run("plot", job).stderr
    driver = drive(job)
    for step in range(1, 5):
        driver.step(step, loss=1 / step)
    result = run("plot", job)
    assert result.stdout == f"{home}/jobs/{job}/plots/curves.png\n"
    assert Path(result.stdout.strip()).read_bytes().startswith(b"\x89PNG")
    mine = tmp_path / "mine.png"
    assert json.loads(run("plot", job, "-o", str(mine), "--json").stdout)["plots"] == [str(mine)]
    assert mine.read_bytes().startswith(b"\x89PNG")
    assert run("plot", job, "-o", str(tmp_path / "no" / "folder.png")).exit_code == 2


def test_a_wrong_password_is_said_with_what_to_do(
    run: Run, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.connection.client.config_set("requirepass", "secret")
    try:
        monkeypatch.setenv("BERTJOBS_REDIS_PASSWORD", "wrong")
        result = run("list")
        assert result.exit_code == 2
        assert "refuses us" in result.stderr
        assert "BERTJOBS_REDIS_PASSWORD" in result.stderr
        assert "wrong" not in result.stderr.replace("wrong number", "").replace("WRONGPASS", "")
        monkeypatch.setenv("BERTJOBS_REDIS_PASSWORD", "secret")
        assert run("list").exit_code == 0
    finally:
        store.connection.client.config_set("requirepass", "")


def test_output_gets_the_picture_of_an_evaluation_and_a_search_refuses_it(
    run: Run, store: JobStore, drive: Drive, home: Path, tmp_path: Path
) -> None:
    job, search = (
        store.submit(kind, {}, storage=str(home / "jobs"), resources={}, user="ada")[0]
        for kind in ("evaluate", "tune")
    )
    name = "outputs-a1/plots/confusion.png"
    job.job_dir.write_bytes(name, b"picture")
    drive(job.id).end(State.SUCCEEDED, artifacts={"plots": [job.job_dir.path_of(name)]})
    mine = tmp_path / "mine.png"
    assert run("plot", job.id, "--output", str(mine)).stdout == f"{mine}\n"
    assert mine.read_bytes() == b"picture"
    refused = run("plot", search.id, "--output", str(mine))
    assert refused.exit_code == 2
    assert f"{search.id} is a search, which has several pictures" in refused.stderr


def test_a_log_is_read_from_the_byte_where_the_last_read_ended(store: JobStore, home: Path) -> None:
    folder = store.get(submit(store, home)).job_dir
    folder.write_bytes("logs/a1.log", b"one\ntwo\n")
    assert folder.read_bytes("logs/a1.log", start=4) == b"two\n"
    assert folder.read_bytes("logs/a1.log", start=8) == b""
