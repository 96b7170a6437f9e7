"""What strangers and markup try in the browser: both are refused, and shown as what they are."""

from typing import Any

import pytest

from bertjobs.jobs.access import Role
from bertjobs.jobs.job import State
from bertjobs.jobs.store.connection import Connection
from bertjobs.jobs.store.token_store import TokenStore
from bertjobs.runs.tune.trial_records import Search, Trial, TrialEvaluation, write_trial
from example_queue import ExampleQueue

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = sync_api.expect

MARKUP = '<img src="static/none" onerror="window.wasHit=1"><script>window.wasHit=1</script><b class="hit">'


def test_a_wrong_token_is_refused_and_the_right_one_leaves_no_trace(
    new_page: Any, connection: Connection, services: Any
) -> None:
    page = new_page()
    page.goto("#token=wrong")
    expect(page.get_by_role("alert")).not_to_be_empty()
    assert "wrong" not in page.url
    expect(page.get_by_role("table")).to_have_count(0)
    page.get_by_label("Token", exact=True).fill("wrong again")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).not_to_be_empty()

    secret = services.logins.local.text
    page.get_by_label("Token", exact=True).fill(secret)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("table")).to_be_visible()
    assert secret not in page.url
    assert secret not in page.content()
    # No script can read the cookie, and nothing else keeps the token.
    assert (
        page.evaluate("document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)")
        == "{}{}"
    )
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_label("Token", exact=True)).to_be_visible()


def test_a_revoked_token_ends_the_page_that_it_opened(new_page: Any, connection: Connection) -> None:
    tokens = TokenStore(connection)
    token, text = tokens.add("bob", role=Role.USER, expires_s=3600, by="ada")
    page = new_page()
    page.goto(f"#token={text}")
    expect(page.get_by_role("table")).to_be_visible()
    tokens.revoke(token.id)
    # Its stream of events may have ended before; if not, the next request tells it.
    page.evaluate("location.hash = '#/queue?tab=failed'")
    expect(page.get_by_label("Token", exact=True)).to_be_visible()
    expect(page.get_by_role("table")).to_have_count(0)


@pytest.mark.parametrize(
    ("role", "can_act"), [(Role.READER, False), (Role.USER, False), (Role.OPERATOR, True)]
)
def test_only_operators_are_offered_actions_on_jobs_of_others(
    role: Role, can_act: bool, new_page: Any, connection: Connection, queue: ExampleQueue
) -> None:
    job = queue.submit(name="of ada", user="ada")
    _, text = TokenStore(connection).add("bob", role=role, expires_s=3600, by="ada")
    page = new_page()
    page.goto(f"#token={text}")
    page.get_by_label("Select of ada").check()
    hold = page.get_by_role("toolbar").get_by_role("button", name="Hold")
    expect(hold).to_be_enabled() if can_act else expect(hold).to_be_disabled()
    page.get_by_role("link", name="of ada").click()
    expect(page.get_by_role("heading", name="of ada")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(int(can_act))
    assert queue.store.get(job.id).state is State.QUEUED


def test_markup_is_shown_as_text_in_every_field(page: Any, queue: ExampleQueue) -> None:
    config = {"task": {"name": MARKUP}, MARKUP: {"inner": [MARKUP]}}
    job = queue.submit("tune", config, name=MARKUP, user=MARKUP)
    follower = queue.submit(name=f"after {MARKUP}", after=[job.id])
    queue.start(job)
    job.phase(MARKUP)
    expect(page.locator(".jobs tbody tr")).to_have_count(2)
    expect(page.locator(".col-progress", has_text=MARKUP)).to_be_visible()
    expect(page.locator(".col-user", has_text=MARKUP)).to_be_visible()
    expect(page.locator(".col-job", has_text=f"after {MARKUP}")).to_be_visible()

    page.goto(f"#/jobs/{job.id}")
    expect(page.get_by_role("heading", name=MARKUP)).to_be_visible()
    job.step(1)
    job.write_log(MARKUP)
    expect(page.locator(".log")).to_contain_text(MARKUP)
    Search(metric="accuracy", space={MARKUP: MARKUP}, algorithm=MARKUP, stopper="none", num_trials=3).write(
        job.job_dir
    )
    for number in (1, 2):
        history = (
            TrialEvaluation(num_examples=1, step=1, epoch=1, scores={"accuracy": number / 4, "loss": 1.0}),
        )
        write_trial(
            job.job_dir,
            Trial(number=number, values={MARKUP: MARKUP}, config={}, message=MARKUP, history=history),
        )
    job.job_dir.write_bytes("plots/<b class=hit>.txt", b"x")
    job.end(State.FAILED, reason="Crashed", message=MARKUP, metrics={"note": MARKUP})
    expect(page.locator(".job-reason", has_text=MARKUP)).to_be_visible()
    expect(page.locator(".timeline", has_text=MARKUP)).to_be_visible()
    expect(page.locator(".attempts", has_text=MARKUP)).to_be_visible()
    expect(page.locator(".pairs", has_text=MARKUP)).to_be_visible()
    expect(page.locator(".trials tbody", has_text=MARKUP)).to_be_visible()
    expect(page.locator(".files", has_text="<b class=hit>.txt")).to_be_visible()
    expect(page.locator(".config-rows")).to_contain_text(MARKUP)
    expect(page.locator(".neighbours")).to_contain_text(f"after {MARKUP}")
    _assert_no_markup(page)

    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("dialog")).to_contain_text(MARKUP)
    _assert_no_markup(page)
    page.get_by_role("button", name="Back").click()
    page.goto(f"#/compare?job={job.id}&job={follower.id}")
    expect(page.locator(".compare-table")).to_contain_text(MARKUP)
    page.goto("#/cluster")
    expect(page.get_by_role("heading", name="Cluster")).to_be_visible()
    _assert_no_markup(page)
    # In an address it is text as well, and so is what the server says of it.
    page.goto(f"#/jobs/{MARKUP}")
    expect(page.get_by_role("alert")).to_be_visible()
    _assert_no_markup(page)


def _assert_no_markup(page: Any) -> None:
    assert page.locator(".hit").count() == 0
    assert page.locator("main script, img[onerror]").count() == 0
    assert page.evaluate("window.wasHit") is None
