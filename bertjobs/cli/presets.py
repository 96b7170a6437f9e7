"""`bertjobs presets`: what `--preset` takes."""

import click

from bertjobs.cli.render import print_json, print_line, print_table
from bertjobs.config.load import load, preset_layer
from bertjobs.config.presets import configs_dir, preset_names, read_preset


@click.group()
def presets() -> None:
    """List and show the presets of --preset."""


@presets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_presets(as_json: bool) -> None:
    """List the presets, each with the line that says what it is for."""
    lines = {name: _text(name).splitlines()[0].lstrip("# ").rstrip(":") for name in preset_names()}
    if as_json:
        print_json([{"name": name, "help": line} for name, line in lines.items()])
    else:
        print_table(["PRESET", "WHAT"], [[name, line] for name, line in lines.items()])


@presets.command("show")
@click.argument("name")
@click.option("--resolved", is_flag=True, help="All parameters, with the defaults, as JSON.")
def show(name: str, resolved: bool) -> None:
    """Print a preset; saved to a file and changed, it is what --config takes."""
    read_preset(name)  # refuses an unknown name
    if resolved:
        print_json(load("finetune", preset_layer(name)).model_dump(mode="json"))
    else:
        print_line(_text(name).rstrip())


def _text(name: str) -> str:
    return (configs_dir() / f"{name}.yaml").read_text(encoding="utf-8")
