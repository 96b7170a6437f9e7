"""Logs and artefacts, and that nothing else is read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertjobs.jobs.job import State
from bertjobs.jobs.store.connection import Connection
from bertjobs.storage import StorageRoots
from bertjobs.web.services import Services

pytestmark = pytest.mark.redis

Submit = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """Return the folder of a job, made."""

    def folder(job: str) -> Path:
        found = tmp_path / "jobs" / job
        (found / "logs").mkdir(parents=True, exist_ok=True)
        return found

    return folder


def test_a_log_is_read_by_bytes(
    browser: Any, submit: Submit, drive: Callable[[str], Any], folder: Callable[[str], Path]
) -> None:
    job = submit()
    path = f"/api/v1/jobs/{job}/log"
    empty = {
        "id": job,
        "attempt": 1,
        "offset": 0,
        "next_offset": 0,
        "size_bytes": 0,
        "text": "",
        "is_final": False,
    }
    assert browser.get(path).json == empty
    driver = drive(job)
    (folder(job) / "logs" / "a1.log").write_text("one\ntwo\n<b>three</b>\n")
    whole = browser.get(path).json
    assert (whole["text"], whole["offset"], whole["next_offset"]) == ("one\ntwo\n<b>three</b>\n", 0, 21)
    assert whole["is_final"] is False
    assert browser.get(f"{path}?offset=4&limit=4").json["text"] == "two\n"
    assert browser.get(f"{path}?offset=-13").json["text"] == "<b>three</b>\n"
    assert (
        browser.get(f"{path}?offset=21").json["text"] == browser.get(f"{path}?offset=99").json["text"] == ""
    )
    driver.end(State.SUCCEEDED)
    assert browser.get(path).json["is_final"] is True
    assert browser.get(f"{path}?attempt=2").status == 404


def test_a_part_of_a_log_begins_and_ends_with_whole_characters(
    browser: Any, submit: Submit, drive: Callable[[str], Any], folder: Callable[[str], Path]
) -> None:
    job = submit()
    drive(job)
    content = "aé漢😀z".encode()
    (folder(job) / "logs" / "a1.log").write_bytes(content)
    for limit in range(4, len(content) + 1):
        text, offset = "", 0
        while offset < len(content):
            part = browser.get(f"/api/v1/jobs/{job}/log?offset={offset}&limit={limit}").json
            assert part["offset"] == offset
            text, offset = text + part["text"], part["next_offset"]
        assert text == "aé漢😀z"
    inside = browser.get(f"/api/v1/jobs/{job}/log?offset=2").json
    assert (inside["offset"], inside["text"]) == (3, "漢😀z")


def test_artefacts_are_listed_and_sent(browser: Any, submit: Submit, folder: Callable[[str], Path]) -> None:
    job = submit()
    root = folder(job)
    (root / "plots").mkdir()
    (root / "plots" / "curves.png").write_bytes(b"\x89PNG")
    (root / "page.html").write_text("<script>alert(1)</script>")
    (root / ".new-01234567").mkdir()
    (root / ".new-01234567" / "half").write_text("x")
    path = f"/api/v1/jobs/{job}/artifacts"
    files = browser.get(path).json["files"]
    assert [(file["name"], file["size_bytes"]) for file in files] == [
        ("page.html", 25),
        ("plots/curves.png", 4),
    ]
    picture = browser.get(f"{path}/plots/curves.png")
    assert (picture.body, picture.headers["Content-Type"]) == (b"\x89PNG", "image/png")
    page = browser.get(f"{path}/page.html")
    assert page.headers["Content-Type"] == "application/octet-stream"
    assert page.headers["Content-Disposition"] == "attachment; filename*=UTF-8''page.html"
    assert page.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "..%2fsecret",
        "%2e%2e/secret",
        "plots/../../secret",
        "plots//../../secret",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "plots",
        "missing",
        "link",
        "linked/secret",
        "pipe",
        "nul%00",
        "./config.json",
    ],
)
def test_no_name_leads_out_of_the_folder_of_the_job(
    browser: Any, submit: Submit, folder: Callable[[str], Path], name: str
) -> None:
    job = submit()
    root = folder(job)
    (root / "plots").mkdir()
    (root / "config.json").write_text("{}")
    (root.parent / "secret").write_text("CONTENT")
    (root / "link").symlink_to(root.parent / "secret")
    (root / "linked").symlink_to(root.parent)
    os.mkfifo(root / "pipe")
    answer = browser.get(f"/api/v1/jobs/{job}/artifacts/{name}")
    assert answer.status in (400, 404), answer.body
    assert b"CONTENT" not in answer.body
    listed = [file["name"] for file in browser.get(f"/api/v1/jobs/{job}/artifacts").json["files"]]
    assert listed == ["config.json"]


def test_a_log_that_is_a_link_is_not_read(
    browser: Any, submit: Submit, folder: Callable[[str], Path], drive: Callable[[str], Any]
) -> None:
    job = submit()
    drive(job)
    (folder(job).parent / "secret").write_text("CONTENT")
    (folder(job) / "logs" / "a1.log").symlink_to(folder(job).parent / "secret")
    answer = browser.get(f"/api/v1/jobs/{job}/log")
    assert (answer.status, answer.json["error"]["code"]) == (502, "StorageError")


def test_a_job_whose_storage_is_elsewhere_is_not_read(
    browser: Any, submit: Submit, services: Services, connection: Connection, tmp_path: Path
) -> None:
    services.roots = StorageRoots([str(tmp_path / "jobs")])
    job = submit()
    assert browser.get(f"/api/v1/jobs/{job}/artifacts").status == 200
    outside = tmp_path / "outside"
    (outside / job / "logs").mkdir(parents=True)
    (outside / job / "logs" / "a1.log").write_text("CONTENT")
    connection.client.hset(f"bj:job:{job}", "storage", str(outside))
    for what in ("artifacts", "log", "metrics", "artifacts/logs/a1.log", "trials"):
        answer = browser.get(f"/api/v1/jobs/{job}/{what}")
        assert (answer.status, answer.json["error"]["code"]) == (403, "Forbidden"), what
