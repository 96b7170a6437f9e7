"""The queue in the browser: found, sorted, paged, selected and steered."""

import re
from typing import Any

import pytest

from bertjobs.jobs.job import State
from example_queue import ExampleQueue
from example_scene import furnish

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = sync_api.expect


def names(page: Any) -> list[str]:
    return [str(text) for text in page.locator(".jobs tbody .job-link b").all_text_contents()]


def test_ten_thousand_jobs_are_paged_sorted_and_filtered(page: Any, queue: ExampleQueue) -> None:
    queue.submit(name="needle", user="bob", priority=7)
    for number in range(9_999):
        queue.submit(name=f"job {number:04}", config={"task": {"name": "snli"}})
    page.get_by_role("button", name="Job", exact=True).click()
    pager = page.locator(".pager")
    expect(pager).to_contain_text("1–50 of 10,000")
    # The pager says the same before the rows are sorted, so wait for the first of them.
    expect(page.locator(".jobs tbody .job-link b").first).to_have_text("job 0000")
    assert names(page)[:2] == ["job 0000", "job 0001"]
    page.get_by_role("button", name="Next page").click()
    expect(pager).to_contain_text("51–100 of 10,000")
    assert names(page)[0] == "job 0050"

    page.get_by_role("button", name="Job", exact=True).click()
    expect(pager).to_contain_text("1–50 of 10,000")
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Job")
    expect(page.locator(".jobs tbody tr").first).to_contain_text("needle")
    page.get_by_role("button", name="Prio").click()
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Prio")
    expect(page.locator(".jobs tbody tr", has_text="needle")).to_have_count(0)
    page.get_by_role("button", name="Prio").click()
    expect(page.locator(".jobs tbody tr").first).to_contain_text("needle")

    page.keyboard.press("/")
    page.keyboard.type("needle")
    expect(pager).to_contain_text("1–1 of 1")
    assert "q=needle" in page.url
    page.get_by_role("link", name="Active").click()
    expect(page.get_by_text("No job matches")).to_be_visible()
    page.get_by_role("link", name="Show all jobs").click()
    page.get_by_label("User", exact=True).select_option("bob")
    expect(pager).to_contain_text("1–1 of 1")
    # The address has the filters: who opens it sees the same.
    page.reload()
    expect(pager).to_contain_text("1–1 of 1")
    expect(page.get_by_role("link", name="Waiting")).to_have_text(re.compile("10,000"))


def test_several_jobs_are_held_at_once(page: Any, queue: ExampleQueue) -> None:
    jobs = [queue.submit(name=f"one of three {n}") for n in range(3)]
    expect(page.locator(".jobs tbody tr")).to_have_count(3)
    page.get_by_label("Select all jobs of this page").check()
    expect(page.get_by_role("toolbar")).to_contain_text("3 jobs selected")
    page.get_by_label("Select one of three 0").uncheck()
    page.get_by_role("button", name="Hold").click()
    page.get_by_role("button", name="Hold 2 jobs").click()
    expect(page.locator(".jobs tbody .state", has_text="held")).to_have_count(2)
    assert [queue.store.get(job.id).state for job in jobs] == [State.QUEUED, State.HELD, State.HELD]


def test_waiting_jobs_are_given_a_priority(page: Any, queue: ExampleQueue) -> None:
    jobs = [queue.submit(name=f"one of three {n}") for n in range(3)]
    page.get_by_label("Select one of three 1").check()
    page.get_by_label("Select one of three 2").check()
    page.get_by_role("button", name="Priority").click()
    page.get_by_label("Priority", exact=True).fill("12")
    page.get_by_role("button", name="Set priority").click()
    expect(page.locator(".jobs .col-priority", has_text="12")).to_have_count(2)
    assert [queue.store.get(job.id).priority for job in jobs] == [0, 12, 12]


def test_what_happens_changes_the_counts_and_keeps_the_focus(page: Any, queue: ExampleQueue) -> None:
    first = queue.submit(name="first")
    page.get_by_label("Select first").focus()
    queue.start(first).step(1)
    expect(page.get_by_role("link", name="Active")).to_have_text(re.compile("1$"))
    expect(page.locator(".jobs tbody .state")).to_have_text("running")
    expect(page.get_by_label("Select first")).to_be_focused()


@pytest.mark.parametrize("width", [375, 1360])
def test_no_page_is_wider_than_the_window(width: int, open_page: Any, queue: ExampleQueue) -> None:
    scene = furnish(queue)
    page = open_page(viewport={"width": width, "height": 700})
    for address in (
        "#/queue",
        f"#/jobs/{scene['live'].id}",
        f"#/jobs/{scene['search'].id}",
        f"#/compare?job={scene['first'].id}&job={scene['second'].id}",
        "#/cluster",
    ):
        page.goto(address)
        page.wait_for_selector("main .panel:visible")
        page.wait_for_load_state("load")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address


def test_the_theme_follows_the_system_until_one_is_chosen(open_page: Any) -> None:
    page = open_page(color_scheme="dark")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(ground)
    page.locator("#theme").click()
    expect(page.locator("#theme")).to_have_attribute("title", "Light theme")
    assert page.evaluate(ground) != dark
    page.reload()
    page.wait_for_selector("nav")
    assert page.evaluate(ground) != dark
