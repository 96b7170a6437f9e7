"""The page in a real browser: Debian's Chromium without a window, driven by Playwright."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bertjobs.jobs.store.connection import Connection
from bertjobs.web.services import Services
from example_queue import ExampleQueue

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WAIT_MS = 30_000
"""How long a test waits for what has to appear; only a failing test waits as long."""
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def find_chromium() -> str | None:
    """Return the path of the system's Chromium, or of Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


# Not of the session: Playwright's loop would be in the way of other tests of this process.
@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """A Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium on this machine: `apt-get install chromium`")
    playwright.expect.set_options(timeout=WAIT_MS)
    # Chromium's sandbox refuses to run as root.
    flags = FLAGS if os.geteuid() else [*FLAGS, "--no-sandbox"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium: "Browser", port: int) -> Iterator[Callable[..., "Page"]]:
    """Open a page in a browser of its own; takes what `new_context` takes. At the end of the test
    no script has failed, and the content policy has refused nothing."""
    problems: list[str] = []
    contexts = []

    def open_page(**given: object) -> "Page":
        context = chromium.new_context(base_url=f"http://127.0.0.1:{port}/", reduced_motion="reduce", **given)
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console", lambda message: problems.append(message.text) if "Policy" in message.text else None
        )
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def open_page(new_page: Callable[..., "Page"], services: Services) -> Callable[..., "Page"]:
    """Open a page that is logged in as ada, with the link that `bertjobs web` prints."""

    def open_page(**given: object) -> "Page":
        page = new_page(**given)
        assert services.logins.local is not None
        page.goto(f"#token={services.logins.local.text}")
        page.wait_for_selector("nav[aria-label=Pages]")
        return page

    return open_page


@pytest.fixture
def page(open_page: Callable[..., "Page"]) -> "Page":
    """A page that is logged in as ada."""
    return open_page()


@pytest.fixture
def queue(connection: Connection, tmp_path: Path) -> ExampleQueue:
    """A queue whose dispatcher and drivers do what a test says."""
    return ExampleQueue(connection, tmp_path / "jobs")
