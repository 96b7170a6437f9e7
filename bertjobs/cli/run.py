"""`bertjobs run`: the same work in the foreground, without a queue."""

from typing import Any

import click

from bertjobs.cli.inputs import locate_inputs
from bertjobs.cli.options import JobCommand
from bertjobs.cli.render import print_json, print_note, print_results
from bertjobs.config import JobConfig
from bertjobs.settings import load_settings

output_option = click.option(
    "--output", metavar="DIR", help="Folder of the artefacts; default: a new one under BERTJOBS_STORAGE."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def run() -> None:
    """Do a job's work here and now, without the queue."""


@run.command(cls=JobCommand, kind="pretrain")
@output_option
@json_option
def pretrain(**request: Any) -> None:
    """Pretrain a BERT on a corpus: masked language model and next sentence."""
    _run("pretrain", **request)


@run.command(cls=JobCommand, kind="finetune")
@output_option
@json_option
def finetune(**request: Any) -> None:
    """Fine-tune a BERT on a task."""
    _run("finetune", **request)


@run.command(cls=JobCommand, kind="tune")
@output_option
@json_option
def tune(**request: Any) -> None:
    """Search for the best configuration of a fine-tuning: many trials, the poor ones stopped early."""
    _run("tune", **request)


@run.command(cls=JobCommand, kind="evaluate")
@output_option
@json_option
def evaluate(**request: Any) -> None:
    """Evaluate a fine-tuned model on a split."""
    _run("evaluate", **request)


@run.command(cls=JobCommand, kind="encode")
@output_option
@json_option
def encode(**request: Any) -> None:
    """Represent each line of a file by a vector, into Parquet."""
    _run("encode", **request)


def _run(kind: str, *, config: JobConfig, output: str | None, as_json: bool) -> None:
    settings = load_settings()
    config = locate_inputs(kind, config, cache=settings.cache)
    from bertjobs.runs.local import (
        run as run_here,  # torch and ray: seconds, which a wrong flag should not cost
    )

    result = run_here(kind, config, output=output, settings=settings, announce=print_note)
    print_json(result) if as_json else print_results(result)
