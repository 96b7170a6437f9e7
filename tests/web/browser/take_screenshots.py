"""Make the pictures of the page in `docs/images` anew:

    PYTHONPATH=. .venv/bin/python tests/web/browser/take_screenshots.py

Needs Chromium. The jobs are those of `example_scene.py`, on a real Redis behind the real server; only
the nodes are made up, since no Ray runs.
"""

import os
import sys
import tempfile
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests"))

import bertjobs.web.cluster as cluster_page  # noqa: E402
from bertjobs.jobs.scheduling.types import Cluster, Node  # noqa: E402
from bertjobs.jobs.store.connection import open_connection  # noqa: E402
from bertjobs.web.identity import LocalToken  # noqa: E402
from bertjobs.web.security import PublicAddress  # noqa: E402
from bertjobs.web.services import open_services  # noqa: E402
from example_queue import ExampleQueue  # noqa: E402
from example_scene import furnish  # noqa: E402
from redis_process import running_redis  # noqa: E402


def load(file: Path) -> Any:
    """Load a `conftest.py`, which is no module that could be imported."""
    spec = spec_from_file_location(f"kit_{file.parent.name}", file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


serving = load(ROOT / "tests/web/conftest.py").serving
browser_kit = load(ROOT / "tests/web/browser/conftest.py")
IMAGES = ROOT / "docs" / "images"
SHOWN = {
    "queue": ".cluster-map .cell",
    "job": ".page-jobs .chart canvas",
    "search": ".page-jobs .parallel polyline",
    "compare": ".page-compare .chart canvas",
}
"""What each page shows when it is complete."""
NO_DITHER = Image.Dither.NONE
WIDTH, HEIGHT = 1280, 800


def main() -> None:
    with running_redis() as redis, tempfile.TemporaryDirectory() as folder:
        settings = replace(redis.settings(), storage=folder)
        connection = open_connection(settings)
        scene = furnish(ExampleQueue(connection, Path(folder)))
        nodes = tuple(
            Node(id=f"node-{letter}", cpus=32, gpus=8, used_cpus=cpus, used_gpus=gpus)
            for letter, cpus, gpus in (("a", 8, 6), ("b", 5, 4))
        )
        cluster_page._read_nodes = lambda _: (Cluster(nodes=nodes), None)
        local = LocalToken("ada")
        services = open_services(settings, public=PublicAddress.of(host="127.0.0.1", url=None), local=local)
        pages = {
            "queue": "queue",
            "job": f"jobs/{scene['live'].id}",
            "search": f"jobs/{scene['search'].id}",
            "compare": "compare?" + "&".join(f"job={scene[n].id}" for n in ("first", "second", "third")),
        }
        flags = [*browser_kit.FLAGS, *([] if os.geteuid() else ["--no-sandbox"])]
        with serving(services) as port, sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=browser_kit.find_chromium(), args=flags)
            for scheme in ("light", "dark"):
                take(browser, port, local.text, scheme=scheme, pages=pages)
            browser.close()
        connection.close()


def take(browser: Browser, port: int, token: str, *, scheme: Any, pages: dict[str, str]) -> None:
    """Take a picture of each page in one of the themes."""
    size: Any = {"width": WIDTH, "height": HEIGHT}
    page = browser.new_page(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page.goto(f"http://127.0.0.1:{port}/#token={token}")
    page.wait_for_selector("nav")
    for name, address in pages.items():
        page.goto(f"http://127.0.0.1:{port}/#/{address}")
        page.wait_for_selector(SHOWN[name])
        page.wait_for_timeout(1500)  # for what is fetched after it
        file = IMAGES / f"web-{name}-{scheme}.png"
        page.screenshot(path=file)
        # A palette halves the size; this method keeps colours that few pixels have.
        few = (
            Image.open(file).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=NO_DITHER)
        )
        few.save(file, optimize=True)
        print(file.relative_to(ROOT), f"{file.stat().st_size / 1000:.0f} kB")
    page.close()


if __name__ == "__main__":
    main()
