"""`bertjobs demo`: train, evaluate and plot on the sample data, with the commands that a user types."""

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
    """Fine-tune and evaluate a tiny BERT on the sample data and draw its curves, all under FOLDER."""
    data, curves = folder / "data", folder / "curves.png"
    _run_command("data", "sample", str(data))
    pairs = str(data / "snli_1.0")
    model = _run_command(
        "submit", "finetune", "--preset", "demo", "--data", pairs, "--name", "demo", "--wait"
    )
    test = _run_command("submit", "evaluate", "--model", model, "--data", pairs, "--split", "test", "--wait")
    _run_command("plot", model, "--output", str(curves))
    for job in (model, test):
        print_line(_run_command("status", job))
    print_line(_run_command("list", "--limit", "2"))
    print_line(f"\nSample data  {data.absolute()}\nCurves       {curves.absolute()}")
    print_line(f"Dashboard    {_run_command('cluster', 'dashboard')}\nStop it all  {_program()} cluster down")


def _program() -> str:
    """Return the program to type: after `make demo`, `bertjobs` is not on PATH."""
    beside = Path(sys.executable).parent / "bertjobs"
    return str(beside) if shutil.which("bertjobs") is None and beside.exists() else "bertjobs"


def _run_command(*words: str) -> str:
    """Run one command as if it had been typed; return its stdout.

    Raises: RunError: it failed; it has printed its error to stderr.
    """
    click.secho(f"$ bertjobs {shlex.join(words)}", bold=True, err=True)
    done = subprocess.run([sys.executable, "-m", "bertjobs", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RunError(f"`bertjobs {shlex.join(words)}` ended with exit code {done.returncode}")
    return done.stdout.rstrip()
