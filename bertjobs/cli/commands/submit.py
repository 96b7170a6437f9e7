"""`bertjobs submit KIND` queues a job; `bertjobs run KIND` does the same work in the foreground.

Both have one command per job kind, with the same flags, and make the same checks first.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from bertjobs.cli.completion import NOT_ENDED, complete_jobs
from bertjobs.cli.context import current_user, open_queue
from bertjobs.cli.options import PRESET, JobCommand
from bertjobs.cli.output.follow import wait_for
from bertjobs.cli.output.render import print_json, print_line, print_note, print_results
from bertjobs.cli.params import JSON_HELP, Duration
from bertjobs.cli.request import locate_inputs, model_of, names_job, with_model
from bertjobs.config import KINDS_WITH_MODEL, JobConfig
from bertjobs.errors import ModelError, StorageError
from bertjobs.jobs.job import State
from bertjobs.jobs.queue import JobQueue
from bertjobs.jobs.remote_queue import RemoteQueue
from bertjobs.jobs.store.job_store import MAX_PRIORITY
from bertjobs.runs.input_files import send_inputs
from bertjobs.settings import Settings, load_settings

HELP_OF_KIND = {
    "pretrain": "Pretrain a BERT on a corpus: masked language model and next sentence.",
    "finetune": "Fine-tune a BERT on a task.",
    "tune": "Search for the best configuration of a fine-tuning; unpromising trials are stopped early.",
    "evaluate": "Evaluate a fine-tuned model on a split.",
    "encode": "Write one vector for each line of a file, as Parquet.",
    "predict": "Predict the rows of files, and write them with their predictions.",
}

_PRIORITY = f"Higher goes first.  [{-MAX_PRIORITY} to {MAX_PRIORITY}; default: 0]"
_KEEP = "Delete the job this long after its end, as in 30d.  [default: BERTJOBS_KEEP_S, or never]"
_STALL = "Stop an attempt that makes no progress for, say, 1h; default: as the cluster has it, 15m."
_RETRIES = "Retries after a failure of the work itself; lost machines do not count.  [default: 0]"


def submit_options() -> list[click.Parameter]:
    """Return the options about the job itself, not about its work."""
    priorities, retries = click.IntRange(-MAX_PRIORITY, MAX_PRIORITY), click.IntRange(min=0)
    return [
        click.Option(["--name"], default="", help="Name of the job, shown in lists."),
        click.Option(["--priority"], type=priorities, metavar="INT", default=0, help=_PRIORITY),
        click.Option(
            ["--after"],
            multiple=True,
            metavar="JOB",
            shell_complete=complete_jobs(states=NOT_ENDED),
            help="Start after this job has succeeded.",
        ),
        click.Option(["--hold"], is_flag=True, help="Do not start it before `bertjobs release`."),
        click.Option(
            ["--idempotency-key"], metavar="KEY", help="Return the first job with this key, if any."
        ),
        click.Option(["--time-limit", "time_limit_s"], type=Duration(), help="Stop it after, say, 2h30m."),
        click.Option(["--stall-timeout", "stall_timeout_s"], type=Duration(), help=_STALL),
        click.Option(["--keep", "keep_s"], type=Duration(), help=_KEEP),
        click.Option(["--max-retries"], type=retries, metavar="INT", default=0, help=_RETRIES),
        click.Option(["--wait"], is_flag=True, help="Wait until it has ended; exit 1 if it did not succeed."),
        click.Option(["--json", "as_json"], is_flag=True, help=JSON_HELP),
    ]


def run_options() -> list[click.Parameter]:
    """Return the options of a run in the foreground."""
    folder = "Folder for the results; default: a new one under BERTJOBS_STORAGE."
    return [
        click.Option(["--output"], metavar="DIR", help=folder),
        click.Option(["--json", "as_json"], is_flag=True, help=JSON_HELP),
    ]


def submit_job(
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
    """Check the request, queue the job and print its id."""
    settings = load_settings()
    config = locate_inputs(kind, config, given=given, cache=settings.cache)
    store = open_queue(settings=settings, needs_ray=True)
    config, after = _follow_model(kind, config, after, store)
    settings, is_this_machine = _where_jobs_run(settings, store)
    if not is_this_machine:
        config = send_inputs(kind, config, settings=settings, announce=print_note)
    job, is_new = store.submit(
        kind,
        config.model_dump(mode="json"),
        storage=settings.storage,
        resources=config.resources.model_dump(mode="json"),
        user=current_user(),
        after=after,
        preset=click.get_current_context().meta.get(PRESET),
        uses=[model] if names_job(model := model_of(config)) else [],
        keep_s=keep_s or settings.keep_s,
        **queue,
    )
    if not is_new:
        print_note(f"This key was submitted before, as {job.id}.")
    if wait:
        if not as_json:
            print_line(job.id)
        return wait_for(store.get, job.id, as_json=as_json)
    print_json(job.to_json()) if as_json else print_line(job.id)
    return 0


def run_job(
    kind: str, *, config: JobConfig, given: Mapping[str, str], output: str | None, as_json: bool
) -> None:
    """Check the request, do the work here and print its results."""
    settings = load_settings()
    config = locate_inputs(kind, config, given=given, cache=settings.cache)
    from bertjobs.runs.foreground import run as run_here  # torch and ray

    result = run_here(kind, config, output=output, settings=settings, announce=print_note)
    print_json(result) if as_json else print_results(result)


def _where_jobs_run(settings: Settings, store: JobQueue) -> tuple[Settings, bool]:
    """Return the settings with the storage of the server, if there is one, and whether jobs run here.

    Raises: StorageError: the server's storage is a folder that is not here, where inputs have to go.
    """
    if not isinstance(store, RemoteQueue):
        return settings, settings.is_one_machine
    storage = store.storage()
    if storage.is_this_machine:
        return settings, True
    place = storage.place
    if place.startswith("/") and not Path(place).is_dir():
        raise StorageError(
            f"The server stores jobs in {place}, where inputs have to be sent, and it is not a folder here",
            hint="Mount it, or submit on a machine of the cluster.",
        )
    shared = (Path(place),) if place.startswith("/") else ()
    return replace(settings, storage=place, shared_folders=(*settings.shared_folders, *shared)), False


def _follow_model(
    kind: str, config: JobConfig, after: tuple[str, ...], store: JobQueue
) -> tuple[JobConfig, tuple[str, ...]]:
    """Replace a model that is a job by its full id; where that job has not ended, start after it.

    Raises: ModelError: that job has no model and will not have one. QueueError: there is no such job.
    """
    source = model_of(config)
    if not names_job(source):
        return config, after
    job = store.get(source)
    if job.kind not in KINDS_WITH_MODEL or (job.state.is_terminal and job.state is not State.SUCCEEDED):
        raise ModelError(
            f"--model {source}: {job.id} ({job.kind}, {job.state}) has no model",
            hint="Give a pretrain or finetune job that has succeeded or not ended yet; see `bertjobs list`.",
        )
    if job.state is not State.SUCCEEDED and job.id not in after:
        print_note(f"{job.id} has not ended; this job starts after it has succeeded.")
        after = (*after, job.id)
    return with_model(config, job.id), after


def _commands(
    work: Callable[..., int | None], params: Callable[[], list[click.Parameter]]
) -> list[click.Command]:
    """Make one command per job kind: `work(kind, config=..., given=..., ...)`."""
    return [
        JobCommand(kind, kind=kind, params=params(), callback=partial(work, kind), help=text)
        for kind, text in HELP_OF_KIND.items()
    ]


submit = click.Group(
    "submit", commands=_commands(submit_job, submit_options), help="Queue a job and print its id."
)
run = click.Group(
    "run", commands=_commands(run_job, run_options), help="Run a job's work here, without the queue."
)
tune = submit.commands["tune"]
"""`bertjobs tune` is `bertjobs submit tune`."""
