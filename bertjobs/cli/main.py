"""The entry point: the table of commands, each imported only when it runs, and the place where errors become
messages and exit codes. Imports only click, so that `bertjobs --help` is immediate."""

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from bertjobs import __version__
from bertjobs.errors import BertjobsError

INTERRUPTED = 130
COMPLETE_VARIABLE = "_BERTJOBS_COMPLETE"
"""Set by the scripts of shell completion: click then answers the shell and runs no command."""

# Section of `--help` -> command -> (where it is, its line of help). The line is here so that `--help`
# imports no command.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Start work": {
        "submit": ("commands.submit:submit", "Queue a job and print its id."),
        "tune": (
            "commands.submit:tune",
            "Search for the best configuration of a fine-tuning in many trials.",
        ),
        "run": ("commands.submit:run", "Run a job's work here, without the queue."),
        "demo": ("commands.demo:demo", "Fine-tune and evaluate a tiny BERT on the sample data."),
    },
    "Follow jobs": {
        "list": ("commands.jobs:list_jobs", "List the jobs, newest first, and why waiting ones wait."),
        "status": ("commands.jobs:status", "Show one job: settings, results and timeline."),
        "watch": ("commands.jobs:watch", "Follow one job live: step, loss, examples/s, time left."),
        "top": ("commands.top:top", "Show the queue live, and act on it with keys."),
        "wait": ("commands.jobs:wait", "Wait until a job has ended; exit 1 if it did not succeed."),
        "logs": ("commands.logs:logs", "Print the log of a job; -f follows it."),
        "trials": ("commands.trials:trials", "Show the trials of a search."),
        "inspect": ("commands.inspect:inspect", "Show what a job's model does worst."),
        "plot": ("commands.plot:plot", "Draw the curves of a job."),
        "web": ("commands.web:web", "Show the queue in a browser; make tokens for its users."),
    },
    "Use a model": {
        "predict": ("commands.predict:predict", "Predict labels, scores or answers of texts, or of a file."),
        "encode": ("commands.inference:encode", "Print the vectors of texts, and of words in them."),
        "fill-mask": ("commands.inference:fill_mask", "Show what a model predicts for the masks of a text."),
    },
    "Control jobs": {
        "cancel": ("commands.jobs:cancel", "Cancel waiting or running jobs."),
        "retry": ("commands.jobs:retry", "Queue ended jobs again; they resume from their last checkpoint."),
        "hold": ("commands.jobs:hold", "Keep waiting jobs from starting."),
        "release": ("commands.jobs:release", "Let held jobs start."),
        "prioritize": ("commands.jobs:prioritize", "Change the priority of waiting jobs."),
    },
    "Data and presets": {
        "data": ("commands.data:data", "Download, generate or inspect data sets."),
        "presets": ("commands.presets:presets", "List and show the presets that --preset takes."),
    },
    "The stack": {
        "cluster": ("commands.cluster:cluster", "Start, show and stop the local Redis, Ray and dispatcher."),
        "dispatcher": ("commands.cluster:dispatcher", "Run the dispatcher of a shared Redis and Ray."),
        "completion": (
            "commands.completion:completion",
            "Print the script that makes a shell complete what is typed.",
        ),
        "doctor": (
            "commands.cluster:doctor",
            "Check everything that jobs need; say how to fix what is wrong.",
        ),
    },
}


class LazyCommands(Mapping[str, click.Command]):
    """The commands by name; a command is imported when it is looked up."""

    _places: ClassVar = {
        name: place for commands in COMMANDS.values() for name, (place, _) in commands.items()
    }

    def __getitem__(self, name: str) -> click.Command:
        module, _, attribute = self._places[name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"bertjobs.cli.{module}"), attribute)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class RootGroup(click.Group):
    """`bertjobs` itself. The return value of a command is its exit code; None is 0."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for commands in COMMANDS.values() for name in commands)
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), line) for name, (_, line) in commands.items()])

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        if os.environ.get(COMPLETE_VARIABLE):
            _complete(self)
        try:
            code = super().main(args, prog_name or "bertjobs", **{**extra, "standalone_mode": False})
        except BertjobsError as e:
            print_error(e.message, e.hint)
            code = e.exit_code
        except NoArgsIsHelpError as e:
            click.echo(e.format_message(), err=True)
            code = 2
        except click.ClickException as e:
            print_error(e.format_message().rstrip("."), _usage_hint(e))
            code = 2
        except click.Abort:
            code = INTERRUPTED
        sys.exit(code)


def _complete(command: click.Command) -> NoReturn:
    """Answer a shell that asks for completions. Whatever goes wrong, nothing is printed into its line."""
    from click.shell_completion import shell_complete

    from bertjobs.cli import shells

    shells.register()
    code = 0
    with suppress(Exception):
        code = shell_complete(command, {}, "bertjobs", COMPLETE_VARIABLE, os.environ[COMPLETE_VARIABLE])
    sys.stdout.flush()
    os._exit(code)  # without waiting for a queue that does not answer


def print_error(message: str, hint: str = "") -> None:
    """Print on stderr what is wrong, and under it what to do."""
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo("\n       ".join(message.splitlines()), err=True)
    if hint:
        click.echo(f" hint: {hint}", err=True)


def _usage_hint(e: click.ClickException) -> str:
    ctx = getattr(e, "ctx", None)
    return f"`{ctx.command_path} --help` shows its options." if ctx else ""


@click.group(
    "bertjobs",
    cls=RootGroup,
    commands=LazyCommands(),
    epilog="Where no addresses are set, the first command that needs Redis or Ray starts a local stack.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(version)s")
def main() -> None:
    """Queue BERT work and run it on a Ray cluster."""


if __name__ == "__main__":
    main()
