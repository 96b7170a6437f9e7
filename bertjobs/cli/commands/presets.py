"""`bertjobs presets`: the configurations that `--preset` takes."""

import difflib

import click

from bertjobs.cli.completion import complete_names
from bertjobs.cli.output.render import print_json, print_line, print_table
from bertjobs.cli.params import json_option
from bertjobs.config import CONFIG_OF_KIND
from bertjobs.config.load import load_config, preset_layer
from bertjobs.config.presets import preset_names, preset_path
from bertjobs.errors import ConfigError


@click.group()
def presets() -> None:
    """List and show the presets that --preset takes."""


@presets.command("list")
@json_option
def list_presets(as_json: bool) -> None:
    """List the presets and what each is for."""
    rows = [
        {"kind": kind, "name": name, "help": _first_line(kind, name)} for kind, name in _kinds_and_names()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(["KIND", "PRESET", "PURPOSE"], [list(row.values()) for row in rows])


@presets.command("show")
@click.argument(
    "name", shell_complete=complete_names(lambda: dict.fromkeys(name for _, name in _kinds_and_names()))
)
@click.option(
    "--kind",
    type=click.Choice(list(CONFIG_OF_KIND)),
    help="Kind of the preset, where two kinds have one of this name.",
)
@click.option("--resolved", is_flag=True, help="Print all parameters, defaults included, as JSON.")
def show(name: str, kind: str | None, resolved: bool) -> None:
    """Print a preset as YAML. Saved to a file and edited, it can be given as --config."""
    kind = kind or _kind_of(name)
    if resolved:
        print_json(load_config(kind, preset_layer(kind, name)).model_dump(mode="json"))
    else:
        print_line(preset_path(kind, name).read_text(encoding="utf-8").rstrip())


def _kinds_and_names() -> list[tuple[str, str]]:
    return [(kind, name) for kind in CONFIG_OF_KIND for name in preset_names(kind)]


def _kind_of(name: str) -> str:
    """Return the first kind that has a preset of this name. Raises: ConfigError: none has."""
    for kind, known in _kinds_and_names():
        if known == name:
            return kind
    known_names = [known for _, known in _kinds_and_names()]
    close = difflib.get_close_matches(name, known_names, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"{name}: there is no such preset", hint=f"{hint}The presets are {', '.join(known_names)}."
    )


def _first_line(kind: str, name: str) -> str:
    return preset_path(kind, name).read_text(encoding="utf-8").splitlines()[0].lstrip("# ").rstrip(":")
