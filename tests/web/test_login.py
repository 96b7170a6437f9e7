"""Who is let in: tokens, cookies, other hosts, other origins."""

import logging
from typing import Any

import pytest

from bertjobs.jobs.access import Role
from bertjobs.jobs.store.connection import Connection
from bertjobs.jobs.store.token_store import TokenStore
from bertjobs.web.identity import MAX_FAILURES
from bertjobs.web.services import Services

pytestmark = pytest.mark.redis

CLOSED = ["/api/v1/session", "/api/v1/jobs", "/api/v1/jobs/j-1t4k7wx3m", "/api/v1/nothing", "/elsewhere"]


def error_of(answer: Any) -> tuple[int, str, str]:
    return answer.status, answer.json["error"]["code"], answer.json["error"]["message"]


def test_without_a_login_only_the_page_itself_is_answered(stranger: Any) -> None:
    page = stranger.get("/")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html")
    assert stranger.get("/static/index.html").body == page.body
    for path in CLOSED:
        assert error_of(stranger.get(path))[:2] == (401, "NotLoggedIn"), path
    assert error_of(stranger.post("/api/v1/anything"))[:2] == (401, "NotLoggedIn")


def test_the_printed_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(
    stranger: Any, services: Services
) -> None:
    assert services.logins.local is not None
    answer = stranger.post("/api/v1/login", {"token": services.logins.local.text})
    assert answer.json["user"] == "ada"
    assert answer.json["role"] == "operator"
    assert answer.json["actions"]["HELD"] == ["cancel", "release", "priority"]
    name, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert services.logins.local.text not in name
    assert stranger.get("/api/v1/session").json == answer.json


@pytest.mark.parametrize("token", ["", "wrong", "bjt_00000000_" + "a" * 43, 7, None, ["x"]])
def test_a_wrong_token_is_refused(stranger: Any, token: Any) -> None:
    answer = stranger.post("/api/v1/login", {"token": token})
    message = "The token is wrong, has expired or was revoked"
    assert error_of(answer) == (401, "NotLoggedIn", message)
    assert "Set-Cookie" not in answer.headers
    assert error_of(stranger.get("/api/v1/jobs", Authorization=f"Bearer {token}"))[0] == 401


def test_an_expired_token_is_refused_and_the_sessions_that_it_started_end(
    connection: Connection, stranger: Any, port: int
) -> None:
    tokens = TokenStore(connection)
    made, text = tokens.add("bob", role=Role.USER, expires_s=3600, by="ada")
    assert stranger.log_in(text).get("/api/v1/jobs").status == 200
    record = str(connection.client.hget("bj:tokens", made.id))
    connection.client.hset("bj:tokens", made.id, record.replace(str(made.expires_at.year), "2001"))  # type: ignore[union-attr]
    assert error_of(stranger.get("/api/v1/jobs"))[:2] == (401, "NotLoggedIn")
    assert stranger.post("/api/v1/login", {"token": text}).status == 401
    assert stranger.get("/api/v1/jobs", Authorization=f"Bearer {text}").status == 401


def test_a_revoked_token_is_refused_and_the_sessions_that_it_started_end(
    connection: Connection, stranger: Any
) -> None:
    tokens = TokenStore(connection)
    made, text = tokens.add("bob", role=Role.USER, expires_s=None, by="ada")
    assert stranger.log_in(text).get("/api/v1/session").json["expires_at"] is None
    assert tokens.revoke("bob") == [made]
    assert stranger.get("/api/v1/session").status == 401
    assert stranger.post("/api/v1/login", {"token": text}).status == 401


def test_a_program_sends_its_token_with_each_request(connection: Connection, stranger: Any) -> None:
    _, text = TokenStore(connection).add("bob", role=Role.READER, expires_s=60, by="ada")
    session = stranger.get("/api/v1/session", Authorization=f"Bearer {text}").json
    assert (session["user"], session["role"]) == ("bob", "reader")


def test_a_session_ends_with_the_logout(browser: Any) -> None:
    cookie = browser.cookie
    assert browser.post("/api/v1/logout").status == 204
    browser.cookie = cookie
    assert browser.get("/api/v1/session").status == 401


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", "https://127.0.0.1"])
def test_a_page_of_another_origin_can_change_nothing(browser: Any, origin: str) -> None:
    answer = browser.post("/api/v1/logout", Origin=origin)
    assert error_of(answer) == (403, "Forbidden", f"Requests from {origin} are refused")
    assert browser.get("/api/v1/session").status == 200


def test_a_form_or_a_request_without_an_origin_can_change_nothing(browser: Any, port: int) -> None:
    form = browser.post("/api/v1/logout", Content_Type="application/x-www-form-urlencoded")
    assert (form.status, form.json["error"]["code"]) == (415, "BadRequest")
    cross = browser.post("/api/v1/logout", Sec_Fetch_Site="cross-site")
    assert cross.status == 403
    bare = browser.send("POST", "/api/v1/logout", body="{}", headers={"Content-Type": "application/json"})
    assert error_of(bare) == (403, "Forbidden", "The request names no Origin")
    assert browser.get("/api/v1/session").status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "", "[", "a b"]
)
def test_a_name_that_somebody_points_at_this_address_is_refused(browser: Any, host: str) -> None:
    assert error_of(browser.get("/api/v1/session", Host=host))[:2] == (403, "Forbidden")
    assert browser.get("/", Host=host).status == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:8266", "192.0.2.7:8266", "[::1]:8266"])
def test_own_names_and_addresses_are_answered(browser: Any, host: str) -> None:
    assert browser.get("/api/v1/session", Host=host).status == 200


def test_after_many_wrong_tokens_an_address_has_to_wait(
    stranger: Any, services: Services, browser: Any
) -> None:
    assert services.logins.local is not None
    for _ in range(MAX_FAILURES):
        assert stranger.post("/api/v1/login", {"token": "wrong"}).status == 401
    refused = stranger.post("/api/v1/login", {"token": services.logins.local.text})
    assert error_of(refused)[:2] == (429, "TooManyLogins")
    assert 0 < int(refused.headers["Retry-After"]) <= 61
    assert stranger.get("/api/v1/jobs", Authorization="Bearer wrong").status == 429
    assert browser.get("/api/v1/jobs").status == 200, "who is logged in is not concerned"


def test_every_answer_tells_browsers_what_the_page_may_do(browser: Any, stranger: Any) -> None:
    for answer in (browser.get("/"), browser.get("/api/v1/jobs"), stranger.get("/api/v1/jobs")):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert browser.get("/").headers["Cache-Control"] == "no-cache"
    assert browser.get("/api/v1/jobs").headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_no_path_leads_out_of_the_folder_of_the_page(stranger: Any, path: str) -> None:
    assert stranger.get(path).status in (401, 403, 404)


def test_a_request_that_is_too_large_is_refused(browser: Any) -> None:
    answer = browser.post("/api/v1/login", {"token": "x" * (2 << 20)})
    assert (answer.status, answer.json["error"]["code"]) == (413, "BadRequest")


def test_no_token_and_no_cookie_is_in_a_log(
    stranger: Any, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    assert services.logins.local is not None
    token = services.logins.local.text
    with caplog.at_level(logging.DEBUG):
        stranger.post("/api/v1/login", {"token": "wrong-token"})
        stranger.log_in(token).get("/api/v1/jobs?q=searched")
        stranger.get("/api/v1/jobs", Authorization=f"Bearer {token}")
        stranger.get("/api/v1/nothing")
    for secret in (token, "wrong-token", stranger.cookie.partition("=")[2]):
        assert secret not in caplog.text


def test_the_stored_record_has_no_secret(connection: Connection) -> None:
    made, text = TokenStore(connection).add("bob", role=Role.USER, expires_s=60, by="ada")
    secret = text.rpartition(f"bjt_{made.id}_")[2]
    assert len(secret) == 43
    assert secret not in str(connection.client.hgetall("bj:tokens"))
    assert secret not in str(made.to_json())
