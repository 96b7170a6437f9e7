"""`bertjobs submit`: check the request, then queue it. The id is the answer.

`bertjobs run`: the same work in the foreground, without a queue.
"""

from collections.abc import Callable, Mapping
from typing import Any

import click

from bertjobs.cli.context import current_user, open_queue
from bertjobs.cli.options import JobCommand
from bertjobs.cli.output.follow import wait_for
from bertjobs.cli.output.render import print_json, print_line, print_note, print_results
from bertjobs.cli.params import Duration
from bertjobs.cli.request import locate_inputs, model_of, names_job, with_model
from bertjobs.config import KINDS_WITH_MODEL, JobConfig
from bertjobs.errors import ModelError
from bertjobs.jobs.job import State
from bertjobs.jobs.store.job_store import MAX_PRIORITY, JobStore
from bertjobs.runs.input_files import send_inputs
from bertjobs.settings import load_settings


@click.group()
def submit() -> None:
    """Queue a job and print its id."""


_PRIORITY = f"Larger goes first.  [{-MAX_PRIORITY} to {MAX_PRIORITY}; default: 0]"
_KEEP = "How long to keep it after its end, as in 30d.  [default: BERTJOBS_KEEP_S, or for good]"
_RETRIES = "Try again this often when the work itself fails; lost machines do not count.  [default: 0]"


def queue_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what can be said of a job apart from its work."""
    priority, retries = click.IntRange(-MAX_PRIORITY, MAX_PRIORITY), click.IntRange(min=0)
    options = (
        click.option("--name", default="", help="A name for people."),
        click.option("--priority", type=priority, metavar="INT", default=0, help=_PRIORITY),
        click.option("--after", multiple=True, metavar="JOB", help="Start when this job has succeeded."),
        click.option("--hold", is_flag=True, help="Do not start it before `bertjobs release`."),
        click.option("--idempotency-key", metavar="KEY", help="The same key again finds the first job."),
        click.option("--time-limit", "time_limit_s", type=Duration(), help="Stop it after, say, 2h30m."),
        click.option("--keep", "keep_s", type=Duration(), help=_KEEP),
        click.option("--max-retries", type=retries, metavar="INT", default=0, help=_RETRIES),
        click.option("--wait", is_flag=True, help="Stay until it has ended; exit 1 if it failed."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@submit.command(cls=JobCommand, kind="pretrain")
@queue_options
def pretrain(**request: Any) -> int:
    """Pretrain a BERT on a corpus: masked language model and next sentence."""
    return _submit("pretrain", **request)


@submit.command(cls=JobCommand, kind="finetune")
@queue_options
def finetune(**request: Any) -> int:
    """Fine-tune a BERT on a task."""
    return _submit("finetune", **request)


@submit.command(cls=JobCommand, kind="tune")
@queue_options
def tune(**request: Any) -> int:
    """Search for the best configuration of a fine-tuning: many trials, the poor ones stopped early."""
    return _submit("tune", **request)


@submit.command(cls=JobCommand, kind="evaluate")
@queue_options
def evaluate(**request: Any) -> int:
    """Evaluate a fine-tuned model on a split."""
    return _submit("evaluate", **request)


@submit.command(cls=JobCommand, kind="encode")
@queue_options
def encode(**request: Any) -> int:
    """Represent each line of a file by a vector, into Parquet."""
    return _submit("encode", **request)


def _submit(
    kind: str,
    *,
    config: JobConfig,
    given: Mapping[str, str],
    after: tuple[str, ...],
    wait: bool,
    as_json: bool,
    keep_s: float | None,
    **queue: Any,
) -> int:
    settings = load_settings()
    config = locate_inputs(kind, config, given=given, cache=settings.cache)
    store = open_queue(settings=settings, needs_ray=True)
    config, after = _follow_model(kind, config, after, store)
    config = send_inputs(kind, config, settings=settings, announce=print_note)
    job, is_new = store.submit(
        kind,
        config.model_dump(mode="json"),
        storage=settings.storage,
        resources=config.resources.model_dump(mode="json"),
        user=current_user(),
        after=after,
        uses=[model] if names_job(model := model_of(config)) else [],
        keep_s=keep_s or settings.keep_s,
        **queue,
    )
    if not is_new:
        print_note(f"This key was submitted before, as {job.id}.")
    if wait:
        if not as_json:
            print_line(job.id)
        return wait_for(store, job.id, as_json=as_json)
    print_json(job.to_json()) if as_json else print_line(job.id)
    return 0


def _follow_model(
    kind: str, config: JobConfig, after: tuple[str, ...], store: JobStore
) -> tuple[JobConfig, tuple[str, ...]]:
    """Where the model is a job's: give its whole id, and wait for it if it has not ended.

    Raises: ModelError: that job has no model and will not have one. QueueError: there is no such job.
    """
    source = model_of(config)
    if not names_job(source):
        return config, after
    job = store.get(source)
    if job.kind not in KINDS_WITH_MODEL or (job.state.is_terminal and job.state is not State.SUCCEEDED):
        raise ModelError(
            f"--model {source}: {job.id} ({job.kind}, {job.state}) has no model.",
            hint="Give a pretrain or finetune job that SUCCEEDED or has not ended yet; see `bertjobs list`.",
        )
    if job.state is not State.SUCCEEDED and job.id not in after:
        print_note(f"{job.id} has not ended; this job starts when it has succeeded.")
        after = (*after, job.id)
    return with_model(config, job.id), after


output_option = click.option(
    "--output", metavar="DIR", help="Folder of the artefacts; default: a new one under BERTJOBS_STORAGE."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def run() -> None:
    """Do a job's work here and now, without the queue."""


@run.command("pretrain", cls=JobCommand, kind="pretrain")
@output_option
@json_option
def pretrain_of_run(**request: Any) -> None:
    """Pretrain a BERT on a corpus: masked language model and next sentence."""
    _run("pretrain", **request)


@run.command("finetune", cls=JobCommand, kind="finetune")
@output_option
@json_option
def finetune_of_run(**request: Any) -> None:
    """Fine-tune a BERT on a task."""
    _run("finetune", **request)


@run.command("tune", cls=JobCommand, kind="tune")
@output_option
@json_option
def tune_of_run(**request: Any) -> None:
    """Search for the best configuration of a fine-tuning: many trials, the poor ones stopped early."""
    _run("tune", **request)


@run.command("evaluate", cls=JobCommand, kind="evaluate")
@output_option
@json_option
def evaluate_of_run(**request: Any) -> None:
    """Evaluate a fine-tuned model on a split."""
    _run("evaluate", **request)


@run.command("encode", cls=JobCommand, kind="encode")
@output_option
@json_option
def encode_of_run(**request: Any) -> None:
    """Represent each line of a file by a vector, into Parquet."""
    _run("encode", **request)


def _run(
    kind: str, *, config: JobConfig, given: Mapping[str, str], output: str | None, as_json: bool
) -> None:
    settings = load_settings()
    config = locate_inputs(kind, config, given=given, cache=settings.cache)
    from bertjobs.runs.foreground import run as run_here

    result = run_here(kind, config, output=output, settings=settings, announce=print_note)
    print_json(result) if as_json else print_results(result)
