"""Every command, variable and launcher file that the declarations name exists as it is named."""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import click
import jsonschema
import pytest
import ray
from declarations import CLUSTER, compose, documents, pods, texts

from bertjobs.cli.main import main
from bertjobs.settings import Settings


def commands() -> list[tuple[str, str]]:
    """Return every `bertjobs ...` that a declaration has somebody type or run, with its file."""
    found = []
    for name, text in texts().items():
        lines = re.findall(r"`bertjobs ([^`]+)`", text)
        if name.endswith(".md"):
            joined = text.replace("\\\n", " ")
            lines += re.findall(r"^bertjobs ([^#|\n]+)", joined, flags=re.M)
        found += [(name, line.strip()) for line in lines]
    for name, service in compose()["services"].items():
        if service["image"].startswith("bertjobs-control"):
            found.append((f"compose: {name}", " ".join(service["command"])))
    for name, template in pods():
        found += [
            (name, " ".join(c["command"][1:]))
            for c in template["spec"]["containers"]
            if c.get("command", [""])[0] == "bertjobs"
        ]
    return found


def parse(line: str) -> None:
    """Parse a command down to its last subcommand without running it. Raises: click.UsageError."""
    command: click.Command = main
    words, parent = shlex.split(re.sub(r"\{\{ .*? \}\}", "JOB", line)), None
    while isinstance(command, click.Group):
        settings = command.context_settings if parent is None else {}  # children inherit the names of --help
        parent = click.Context(command, info_name=command.name, parent=parent, **settings)
        _, found, words = command.resolve_command(parent, words)
        assert found is not None
        command = found
    command.make_context(command.name, words, parent=parent)


@pytest.mark.parametrize("line", ["doctr", "list --al", "submit finetune --lrr 3", "dispatcher --port 3"])
def test_a_command_that_is_none_would_be_noticed(line):
    with pytest.raises(click.UsageError):
        parse(line)


def test_every_command_is_one_that_can_be_typed():
    found = commands()
    assert len(found) >= 12
    for where, line in found:
        try:
            parse(line)
        except click.UsageError as e:
            pytest.fail(f"{where}: bertjobs {line}: {e.format_message()}")


def test_every_variable_is_one_that_the_settings_read():
    known = {one.variable for field in fields(Settings) for one in field.metadata.get("settings", ())}
    found = {(name, word) for name, text in texts().items() for word in re.findall(r"BERTJOBS_[A-Z_]+", text)}
    assert len(found) > 30
    assert [(name, word) for name, word in sorted(found) if word not in known] == []


@pytest.mark.parametrize("name", ["ssh.yaml", "aws.yaml"])
def test_a_launcher_file_is_valid_by_rays_own_schema(name):
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    (document,) = documents(CLUSTER / "ray" / name)
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"max_worker": 2}, schema)


@pytest.mark.parametrize("name", ["ssh.yaml", "aws.yaml"])
def test_every_node_of_a_launcher_file_is_the_driver_and_has_the_token(name):
    (document,) = documents(CLUSTER / "ray" / name)
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in document[key]
        if "ray start" in command
    ]
    assert len(starts) == 2
    for command in starts:
        for word in ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=/", "BERTJOBS_REDIS_USER=driver"):
            assert word in command
        assert "BERTJOBS_REDIS_PASSWORD=" not in command


def test_what_the_launcher_brings_is_where_the_nodes_look():
    (document,) = documents(CLUSTER / "ray" / "aws.yaml")
    start = document["worker_start_ray_commands"][-1]
    looked_for = set(re.findall(r"=(/home/bertjobs/cluster/[\w.-]+)", start))
    assert len(looked_for) == 3
    assert looked_for == set(document["file_mounts"])
