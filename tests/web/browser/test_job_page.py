"""A job in the browser: watched from submission to its end, acted on, compared with another."""

from typing import Any

import pytest

from bertjobs.jobs.job import State
from example_queue import ExampleQueue
from example_scene import config_of, finished, search

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = sync_api.expect


def test_a_job_is_watched_from_submission_to_its_end(page: Any, queue: ExampleQueue) -> None:
    expect(page.get_by_text("No job has been submitted")).to_be_visible()
    job = queue.submit(name="watched")
    # Nobody loads the page again: what follows arrives by itself.
    row = page.locator(f"tr[data-job='{job.id}']")
    expect(row).to_contain_text("queued")
    queue.start(job)
    expect(row).to_contain_text("starting")
    expect(row).to_contain_text("encoding train")
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", name="watched")).to_be_visible()
    expect(page.get_by_text("No step has been reported")).to_be_visible()

    for step in range(1, 21):
        job.step(step)
    loss = page.locator("figure[data-chart='loss']")
    expect(loss).to_have_attribute("data-points", "20")
    for step in range(21, 41):
        job.step(step)
    job.evaluation(40, accuracy=0.75)
    expect(loss).to_have_attribute("data-points", "41")
    expect(page.locator("figure[data-chart='accuracy']")).to_have_attribute("data-points", "1")
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "10")
    expect(page.locator(".job-progress")).to_contain_text("40 of 400")

    job.write_log("epoch 1 of 3", "epoch 2 of 3")
    expect(page.get_by_label("Log", exact=True).last).to_contain_text("epoch 2 of 3")
    job.write_log("epoch 3 of 3")
    expect(page.get_by_label("Log", exact=True).last).to_contain_text("epoch 2 of 3\nepoch 3 of 3")

    job.end(State.SUCCEEDED, reason="Done", message="All steps are done.", metrics={"accuracy": 0.875})
    expect(page.locator(".job-head .state")).to_have_text("succeeded")
    expect(page.locator(".job-side")).to_contain_text("0.875")
    states = page.locator(".timeline .state")
    expect(states).to_have_text(["succeeded", "running", "starting", "queued"])
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


def test_a_job_is_cancelled_from_its_page_after_a_question(page: Any, queue: ExampleQueue) -> None:
    job = queue.submit(name="unwanted")
    page.goto(f"#/jobs/{job.id}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_contain_text("Cancel unwanted?")
    page.get_by_role("button", name="Back").click()
    assert queue.store.get(job.id).state is State.QUEUED
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel job").click()
    expect(page.locator(".job-head .state")).to_have_text("cancelled")
    assert queue.store.get(job.id).state is State.CANCELLED
    expect(page.get_by_role("button", name="Retry")).to_be_visible()


def test_two_jobs_are_compared(page: Any, queue: ExampleQueue) -> None:
    slow = finished(queue, "slow", lr=2e-5, accuracy=0.8, seed=1)
    fast = finished(queue, "fast", lr=1e-4, accuracy=0.9, seed=1)
    page.goto(f"#/compare?job={slow.id}")
    page.get_by_role("combobox", name="Add a job").fill("fast")
    page.get_by_role("option", name="fast").click()
    assert page.url.endswith(f"#/compare?job={slow.id}&job={fast.id}")
    accuracy = page.get_by_role("img", name="accuracy:")
    expect(accuracy).to_have_attribute("aria-label", "accuracy: slow 0.7906, fast 0.8906")
    # 100 steps of each.
    expect(page.locator("figure[data-chart='loss, train']")).to_have_attribute("data-points", "200")

    table = page.locator(".compare-table")
    expect(table.locator("tr", has_text="optim.lr")).to_contain_text("2e-5")
    expect(table.locator("tr", has_text="optim.lr")).to_contain_text("1e-4")
    expect(table.get_by_text("train.batch_size")).to_have_count(0)
    page.get_by_label("Only different parameters").uncheck()
    expect(table.get_by_text("train.batch_size")).to_be_visible()
    expect(table.locator("thead th")).to_have_text(["Job", "slow", "fast"])
    table.get_by_role("button", name="accuracy").click()
    expect(table.locator("thead th")).to_have_text(["Job", "fast", "slow"])


def test_the_configuration_marks_what_differs_from_the_defaults(page: Any, queue: ExampleQueue) -> None:
    job = queue.submit(name="tuned", config=config_of(optim={"lr": 3e-4}))
    page.goto(f"#/jobs/{job.id}")
    changed = page.locator(".config tbody tr.changed", has_text="optim.lr")
    expect(changed).to_contain_text("3e-4")
    expect(changed).to_contain_text("5e-5")
    expect(page.locator(".config tbody tr", has_text="optim.schedule")).to_have_count(0)
    page.get_by_label("Only these").uncheck()
    expect(page.locator(".config tbody tr", has_text="optim.schedule")).to_be_visible()


def test_a_search_shows_its_trials_as_lines_and_rows(page: Any, queue: ExampleQueue) -> None:
    job = search(queue)
    page.goto(f"#/jobs/{job.id}")
    expect(page.locator(".trials tbody tr")).to_have_count(18)
    # The failed trial has no result, and so no line.
    expect(page.locator(".parallel polyline")).to_have_count(17)
    expect(page.locator(".trials tbody tr").first).to_contain_text("best")
    page.locator(".trials").get_by_role("button", name="Trial").click()
    expect(page.locator(".trials tbody tr").first.locator("td").first).to_have_text("1")
