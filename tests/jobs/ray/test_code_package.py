"""Our package, on its way to nodes that lack it."""

import io
import subprocess
import sys
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from bertjobs.errors import ConfigError
from bertjobs.jobs.ray.api import RayApi, RayRefused
from bertjobs.jobs.ray.code_package import CodePackage, code_to_send, package_of
from bertjobs.settings import load_settings

SETTINGS = replace(load_settings({}), sends_code=True)


@pytest.fixture
def ray():
    """What keeps packages and takes jobs, as Ray's dashboard does; `seen` lists what was asked of it."""

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer(200 if self.path in self.server.packages else 404)

        def do_PUT(self):
            self.server.packages[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(500 if self.server.is_full else 200, b"\nno room\n" if self.server.is_full else b"")

        def do_POST(self):
            self.server.jobs.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self._answer(200, b"{}")

        def _answer(self, code, body=b""):
            self.server.seen.append(self.command)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Dashboard)
    server.packages, server.jobs, server.seen, server.is_full = {}, [], [], False
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def start(ray, code: CodePackage | None) -> None:
    cluster = RayApi(f"http://127.0.0.1:{ray.server_port}", token=None, code=code)
    cluster.start("x", entrypoint="true", env={"A": "1"}, metadata={})


def test_nothing_is_sent_unless_asked_for(ray):
    assert code_to_send(replace(SETTINGS, sends_code=False)) is None
    start(ray, None)
    assert ray.seen == ["POST"]
    assert '"runtime_env": {"env_vars": {"A": "1"}}' in ray.jobs[0]


def test_the_package_is_sent_once_and_every_job_names_it(ray):
    code = CodePackage(name="_ray_pkg_0.zip", content=b"zip")
    for _ in range(2):
        start(ray, code)
    assert ray.seen == ["GET", "PUT", "POST", "GET", "POST"]
    assert ray.packages == {"/api/packages/gcs/_ray_pkg_0.zip": b"zip"}
    assert all('"py_modules": ["gcs://_ray_pkg_0.zip"]' in job for job in ray.jobs)


def test_a_ray_that_has_no_room_for_it_is_an_error(ray):
    ray.is_full = True
    with pytest.raises(RayRefused, match="Ray refused: no room"):
        start(ray, CodePackage(name="_ray_pkg_0.zip", content=b"zip"))
    assert ray.jobs == []


def test_the_same_code_has_the_same_name_and_other_code_another(tmp_path):
    (tmp_path / "a.py").write_text("1")
    first = package_of({"bertjobs/a.py": tmp_path / "a.py"})
    assert package_of({"bertjobs/a.py": tmp_path / "a.py"}) == first
    (tmp_path / "a.py").write_text("2")
    assert package_of({"bertjobs/a.py": tmp_path / "a.py"}).name != first.name


def test_what_is_unpacked_is_a_package_that_runs_with_its_scripts_and_presets(tmp_path):
    code = code_to_send(SETTINGS)
    zipfile.ZipFile(io.BytesIO(code.content)).extractall(tmp_path)
    script = (
        "import bertjobs, sys; from bertjobs.jobs.store.connection import source_of;"
        "from bertjobs.config.presets import configs_dir, preset_names, size_names;"
        f"assert bertjobs.__file__.startswith({str(tmp_path)!r}), bertjobs.__file__;"
        f"assert str(configs_dir()).startswith({str(tmp_path)!r}), configs_dir();"
        "assert 'bj:seq' in source_of('submit');"
        "assert 'snli' in preset_names('finetune') and 'tiny' in size_names()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(code.content) < 2_000_000


def test_a_switch_is_1_or_0():
    assert load_settings({"BERTJOBS_SEND_CODE": "1"}).sends_code
    assert not load_settings({"BERTJOBS_SEND_CODE": "0"}).sends_code
    with pytest.raises(ConfigError, match="BERTJOBS_SEND_CODE=yes is neither 1 nor 0"):
        load_settings({"BERTJOBS_SEND_CODE": "yes"})
