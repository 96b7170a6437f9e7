"""`bertjobs demo`: the whole way once, on the sample data, by the commands that a user would type."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click

from bertjobs.cli.output.render import print_line
from bertjobs.errors import RunError


@click.command()
@click.argument("folder", type=Path, default=Path("demo"))
def demo(folder: Path) -> None:
    """Fine-tune and evaluate a tiny BERT on the sample data, and draw its curves, all under FOLDER."""
    data, curves = folder / "data", folder / "curves.png"
    _type("data", "sample", str(data))
    pairs = str(data / "snli_1.0")
    model = _type("submit", "finetune", "--preset", "demo", "--data", pairs, "--name", "demo", "--wait")
    test = _type("submit", "evaluate", "--model", model, "--data", pairs, "--split", "test", "--wait")
    _type("plot", model, "--output", str(curves))
    for job in (model, test):
        print_line(_type("status", job))
    print_line(_type("list", "--limit", "2"))
    print_line(f"\nSample data  {data.absolute()}\nCurves       {curves.absolute()}")
    print_line(f"Dashboard    {_type('cluster', 'dashboard')}\nStop it all  {_program()} cluster down")


def _program() -> str:
    """Return what to type for `bertjobs`, which is on no PATH after `make demo`."""
    beside = Path(sys.executable).parent / "bertjobs"
    return str(beside) if shutil.which("bertjobs") is None and beside.exists() else "bertjobs"


def _type(*words: str) -> str:
    """Run one command as if it had been typed; return its answer.

    Raises: RunError: it failed; what was wrong stands on stderr by then.
    """
    click.secho(f"$ bertjobs {shlex.join(words)}", bold=True, err=True)
    done = subprocess.run(
        [sys.executable, "-m", "bertjobs.cli.main", *words], stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        raise RunError(f"`bertjobs {shlex.join(words)}` ended with exit code {done.returncode}.")
    return done.stdout.rstrip()
