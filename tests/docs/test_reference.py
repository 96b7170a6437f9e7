"""The generated pages say what the code says, and every link in the documents leads somewhere."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_reference", ROOT / "docs" / "generate_reference.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_pages_are_up_to_date(generator: ModuleType) -> None:
    for name, make in generator.PAGES.items():
        page = ROOT / "docs" / "reference" / name
        assert page.read_text(encoding="utf-8") == make(), f"run `make docs`: {page} is out of date"
    assert {p.name for p in (ROOT / "docs" / "reference").glob("*.md")} == set(generator.PAGES)


def test_every_link_in_the_documents_leads_somewhere() -> None:
    broken = []
    for page in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("c*/**/*.md"),
        *ROOT.glob("docker/*.md"),
    ]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if target.startswith(("http://", "https://", "mailto:")):
                continue
            linked = (page.parent / path).resolve() if path else page
            if not linked.exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
            elif anchor and linked.suffix == ".md" and anchor not in _anchors(linked):
                broken.append(f"{page.relative_to(ROOT)}: {target} (no such heading)")
    assert broken == []


def test_every_file_that_the_documents_name_exists() -> None:
    missing = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        if page.name == "CHANGELOG.md":
            continue  # it names what was
        for name in re.findall(
            r"`((?:bertjobs|tests|configs|cluster|docker|docs)/[\w/.-]+)", page.read_text("utf-8")
        ):
            if not (ROOT / name).exists() and "KIND" not in name and "NAME" not in name:
                missing.append(f"{page.relative_to(ROOT)}: {name}")
    assert missing == []


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_reason_to_wait_and_class_of_failure_is_explained() -> None:
    """What `list` and `status` show is found in the page that people read then."""
    page = (ROOT / "docs" / "how-to" / "operations.md").read_text(encoding="utf-8")
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "bertjobs" / "jobs").rglob("*.py"))
    words = set(re.findall(r'word="([A-Z][A-Za-z]+)"', source))
    assert {"ExceedsCluster", "DriverLost"} <= words
    assert sorted(word for word in words if f"`{word}`" not in page) == []
