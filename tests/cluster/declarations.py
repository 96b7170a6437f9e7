"""The files under `cluster/` and `docker/`, as tests read them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER, DOCKER = ROOT / "cluster", ROOT / "docker"


def texts() -> dict[str, str]:
    """Return every declared file by its path from the root."""
    paths = [p for folder in (CLUSTER, DOCKER) for p in folder.rglob("*") if p.is_file()]
    return {
        str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in paths if "secrets" not in p.parts
    }


def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def objects() -> list[tuple[str, dict[str, Any]]]:
    """Return every Kubernetes object with the name of its file."""
    paths = sorted((CLUSTER / "kubernetes").glob("*.yaml"))
    return [(path.name, document) for path in paths for document in documents(path)]


def named(kind: str, name: str) -> dict[str, Any]:
    """Return one Kubernetes object."""
    (found,) = [o for _, o in objects() if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def compose() -> dict[str, Any]:
    """Return compose.yaml."""
    (document,) = documents(DOCKER / "compose.yaml")
    return dict(document)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the pod template of everything that runs pods."""
    for name, kind in (("redis", "StatefulSet"), ("dispatcher", "Deployment")):
        yield name, named(kind, name)["spec"]["template"]
    cluster = named("RayCluster", "bertjobs")["spec"]
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile as (instruction, arguments), without comments and with lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.M)
    joined = re.sub(r"\\\n\s*", "", text)
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]
