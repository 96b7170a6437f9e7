"""Every `bertjobs` line in a code block of the README is a command that parses."""

import re
import shlex
from pathlib import Path

import click
import pytest

from bertjobs.cli.main import main

README = Path(__file__).parents[2] / "README.md"


def commands(text: str) -> list[str]:
    """Return the commands in ```-blocks, without prompt, pipe, redirection and comment."""
    found = []
    for block in re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.S):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*bertjobs (.*)", line)
            if match:
                found.append(re.split(r"\s[#|>]|\s2>|&&|;", match[1])[0].strip())
    return found


def parse(line: str) -> None:
    """Parse a command down to its last subcommand without running it."""
    command, words = main, shlex.split(line)
    parent = None
    while isinstance(command, click.Group):
        settings = command.context_settings if parent is None else {}  # children inherit the names of --help
        parent = click.Context(command, info_name=command.name, parent=parent, **settings)
        name, found, words = command.resolve_command(parent, words)
        assert name is not None
        assert found is not None
        command = found  # type: ignore[assignment]
    command.make_context(command.name, words, parent=parent)


def test_commands_are_found_in_code_blocks_only() -> None:
    text = "`bertjobs no`\n```sh\n$ bertjobs list --all | head  # all\nX=1 bertjobs wait \\\n  JOB\nls\n```\n"
    assert commands(text) == ["list --all", "wait    JOB"]


@pytest.mark.parametrize("line", ["list --al", "sbmit finetune", "submit finetune --lrr 3"])
def test_a_command_that_does_not_parse_is_noticed(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line)


def test_every_command_of_the_readme_parses() -> None:
    text = README.read_text(encoding="utf-8")
    found = commands(text)
    assert len(found) >= (1 if "bertjobs submit" in text else 0)
    for line in found:
        for word in ("|status", "[", "..."):
            assert word not in line, f"{line}: a README command is one that can be typed"
        try:
            parse(line)
        except click.UsageError as e:
            pytest.fail(f"bertjobs {line}: {e.format_message()}")
