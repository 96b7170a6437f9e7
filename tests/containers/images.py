"""The images of the container tests: both targets of docker/Dockerfile, built as they are, and the images
that they and compose.yaml are based on.

Where no registry is reached, a stand-in takes the place of a base image: a minimal Debian with the same
program from Debian's packages, under the name that the files use. The build gets this machine's certificates
and its address of the package index as build secrets, so none of it is in an image.
"""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from engine import ContainerError, Engine

ROOT = Path(__file__).parents[2]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
DEBIAN = "bertjobs-test-debian"
DEFAULT_MIRROR = "http://deb.debian.org/debian"
_INSTALL = "RUN apt-get update -q && apt-get install -q -y --no-install-recommends"
STAND_INS = {
    "python": f"{_INSTALL} python3.11 python3-venv python-is-python3",
    "redis": f"""RUN groupadd -g 999 redis && useradd -u 999 -g 999 redis
{_INSTALL} redis-server && install -d -o 999 -g 999 /data
VOLUME /data
WORKDIR /data""",
    "prometheus": f"""{_INSTALL} prometheus && rm -rf /etc/prometheus/* && install -d -o 65534 /prometheus
USER 65534
VOLUME /prometheus
ENTRYPOINT ["/usr/bin/prometheus", "--storage.tsdb.path=/prometheus"]""",
    "alertmanager": f"""{_INSTALL} prometheus-alertmanager && install -d -o 65534 /alertmanager
USER 65534
VOLUME /alertmanager
ENTRYPOINT ["/usr/bin/prometheus-alertmanager"]""",
}
"""By the last part of the image's name: what is done to a minimal Debian."""


def base_images() -> dict[str, str]:
    """Return the images that the files name and the tests need: stand-in -> name."""
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    compose = (ROOT / "docker" / "compose.yaml").read_text()
    python = re.findall(r"^FROM (python:\S+) AS", dockerfile, flags=re.M)
    others = re.findall(r"^\s*image: (\S*(?:redis|prometheus|alertmanager):\S+)", compose, flags=re.M)
    found = {name.split(":")[0].rpartition("/")[2]: name for name in [*python, *others]}
    assert found.keys() == STAND_INS.keys(), found
    return found


def get_base_images(engine: Engine, folder: Path) -> list[str]:
    """Have all base images, pulled or as stand-ins; return the names of the stand-ins."""
    missing = {kind: name for kind, name in base_images().items() if not engine.has_image(name)}
    made: list[str] = []
    for kind, name in missing.items():
        if not made and engine.try_docker("pull", "--quiet", name).returncode == 0:
            continue
        if not engine.has_image(DEBIAN):
            _import_debian(engine, folder)
        engine.docker("build", "--quiet", "--tag", name, "-", stdin=f"FROM {DEBIAN}\n{STAND_INS[kind]}\n")
        made.append(name)
    return made


def _import_debian(engine: Engine, folder: Path) -> None:
    """Make an image of a minimal Debian with `debootstrap`. Raises: ContainerError: it is not installed."""
    if shutil.which("debootstrap") is None:
        raise ContainerError("no registry is reached, and a stand-in needs `apt-get install debootstrap`")
    root = folder / "debian"
    shutil.rmtree(root, ignore_errors=True)
    words = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm"]
    done = subprocess.run([*words, str(root), _mirror()], capture_output=True, text=True)
    if done.returncode != 0:
        raise ContainerError(f"debootstrap failed\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    packed = folder / "debian.tar"
    subprocess.run(["tar", "--create", "--file", packed, "--directory", root, "."], check=True)
    engine.docker("import", str(packed), DEBIAN)
    shutil.rmtree(root)
    packed.unlink()


def _mirror() -> str:
    """Return the mirror of Debian that this machine installs from."""
    for path in sorted(Path("/etc/apt").glob("sources.list*/*.sources")):
        for line in path.read_text().splitlines():
            if line.startswith("URIs:") and line.rstrip("/").endswith("/debian"):
                return line.split()[1]
    return DEFAULT_MIRROR


def build(engine: Engine, target: str, *, tag: str, folder: Path, torch_index: str) -> None:
    """Build a target of docker/Dockerfile; only the mounts of the build secrets are added to it."""
    dockerfile, arguments = (ROOT / "docker" / "Dockerfile").read_text(), ["--network", "host"]
    settings = folder / "pip.conf"
    settings.write_text(_pip_settings(torch_index))
    secrets = {"pip": (settings, "/etc/pip.conf")}
    if CERTIFICATES.exists():
        secrets["certificates"] = (CERTIFICATES, str(CERTIFICATES))
    mounts = "".join(f"--mount=type=secret,id={name},target={at} " for name, (_, at) in secrets.items())
    for name, (path, _) in secrets.items():
        arguments += ["--secret", f"id={name},src={path}"]
    path = folder / "Dockerfile"
    path.write_text(re.sub(r"^RUN ", f"RUN {mounts}", dockerfile, flags=re.M))
    shutil.copy(ROOT / "docker" / "Dockerfile.dockerignore", folder / "Dockerfile.dockerignore")
    arguments += ["--file", str(path), "--target", target]
    engine.docker("build", "--quiet", *arguments, "--tag", tag, str(ROOT))


def _pip_settings(torch_index: str) -> str:
    """Return the settings of pip that also hold in a container: no paths of this machine.

    The address of torch is among them, not a build argument, whose changes would undo the engine's cache.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    words = ["index-url", "extra-index-url", "trusted-host", "timeout", "proxy"]
    kept = [f"cert = {CERTIFICATES}"] if CERTIFICATES.exists() else []
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        key, addresses = name.rpartition(".")[2], value.strip("'\"")
        if key in words and "file:" not in addresses:
            kept.append(f"{key} = {addresses}")
    indexes = [line.partition(" = ")[2] for line in kept if line.startswith("extra-index-url")]
    kept = [line for line in kept if not line.startswith("extra-index-url")]
    return "\n".join(["[global]", *kept, f"extra-index-url = {' '.join([*indexes, torch_index])}", ""])


@contextmanager
def torch_index(folder: Path) -> Iterator[str]:
    """Serve the torch that pip installs on this machine, while an image is built: elsewhere the default
    index may offer a build with CUDA, some GB larger."""
    pinned = re.findall(r"^torch==\S+", (ROOT / "constraints.txt").read_text(), flags=re.M)
    wheels = folder / "index" / "torch"
    if not wheels.exists():
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
        subprocess.run([*download, *pinned], check=True)
    handler = partial(_Quiet, directory=str(folder / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def size_bytes(engine: Engine, image: str) -> int:
    """Return the size of an image."""
    (found,) = json.loads(engine.docker("image", "inspect", image))
    return int(found["Size"])
