"""What can stand at a place of a command line: job ids, presets, tasks, values of parameters.

For shell completion. A press of Tab must neither hang nor print: nothing is started here, and a queue that
does not answer at once has no jobs. How a shell asks, and how it is answered, is in `shells`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

from bertjobs.errors import BertjobsError
from bertjobs.jobs.job import Job, JobSummary, State
from bertjobs.jobs.store.connection import import_redis_alone

PATIENCE_S = 0.2
"""How long the queue may take to answer."""
MAX_SHOWN = 100
_NUM_READ = 1000
"""The newest jobs are offered; these are one call of Redis."""

T = TypeVar("T")
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
"""What click takes as `shell_complete`."""

WAITING = frozenset({State.QUEUED, State.RETRYING})
NOT_ENDED = frozenset(state for state in State if not state.is_terminal)
RETRIABLE = frozenset({State.FAILED, State.CANCELLED, State.TIMED_OUT, State.RETRYING})


def complete_jobs(*, states: Iterable[State] | None = None, kinds: Iterable[str] | None = None) -> Complete:
    """Complete ids of jobs in these states and of these kinds, None: all; state and name are the help."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        given = ctx.params.get(str(param.name)) or ()
        found = _jobs(states=states)
        return [
            CompletionItem(job.id, help=describe_job(job))
            for job in found
            if job.id.startswith(incomplete) and job.id not in given and (not kinds or job.kind in kinds)
        ][:MAX_SHOWN]

    return complete


def complete_users(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the users of the newest jobs."""
    users = sorted({job.user for job in _jobs() if job.user.startswith(incomplete)})
    return [CompletionItem(user) for user in users]


def complete_names(names: Callable[[], Iterable[str]]) -> Complete:
    """Complete one of the names that a function returns when it is asked."""
    return lambda _ctx, _param, incomplete: _matching(names(), incomplete)


def complete_value(path: str, choices: Iterable[str]) -> Complete:
    """Complete the value of a parameter: one of its choices, or what a place like it takes."""

    def complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return value_items(path, choices, incomplete)

    return complete


def complete_preset(kind: str) -> Complete:
    """Complete what `--preset` takes for a kind; its purpose is the help."""

    def complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from bertjobs.config.presets import preset_names, preset_path

        return [
            CompletionItem(
                name, help=preset_path(kind, name).read_text("utf-8").partition("\n")[0].strip("# :")
            )
            for name in preset_names(kind)
            if name.startswith(incomplete)
        ]

    return complete


def complete_assignment(kind: str) -> Complete:
    """Complete `PATH=VALUE`: a dotted path with its help, and after `=` a value of the parameter."""

    def complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from bertjobs.config.parameters import describe_parameter, parameter_paths

        path, equals, value = incomplete.partition("=")
        paths = parameter_paths(kind)
        if not equals:
            return [
                CompletionItem(f"{known}=", help=describe_parameter(kind, known).help)
                for known in paths
                if known.startswith(path)
            ]
        if path not in paths:
            return []
        parameter = describe_parameter(kind, path)
        choices = ("true", "false") if parameter.type is bool else parameter.choices or ()
        items = value_items(path, choices, value)
        return [
            CompletionItem(f"{path}={item.value}", help=item.help) for item in items if item.type == "plain"
        ]

    return complete


def complete_dimension(incomplete: str) -> list[CompletionItem]:
    """Complete `PATH=KIND:` of a search space."""
    from bertjobs.config.dimensions import DIMENSION_KINDS
    from bertjobs.config.parameters import describe_parameter, parameter_paths

    path, equals, value = incomplete.partition("=")
    if equals:
        return [CompletionItem(f"{path}={kind}:") for kind in DIMENSION_KINDS if kind.startswith(value)]
    return [
        CompletionItem(f"{known}=", help=describe_parameter("finetune", known).help)
        for known in parameter_paths("finetune")
        if known.startswith(path)
    ]


def value_items(path: str, choices: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return the values of a parameter that begin with a text."""
    if choices := tuple(choices):
        return _matching(choices, incomplete)
    match path:
        case "task.name":
            from bertjobs.text.datasets.tasks import BUILT_IN  # yaml, which other flags do not need

            return [*_matching(BUILT_IN, incomplete), *_files(incomplete)]
        case "data.corpus":
            from bertjobs.config.pretrain import PUBLISHED_CORPORA

            return [*_matching(PUBLISHED_CORPORA, incomplete), *_files(incomplete)]
        case "model.source":
            return _models(incomplete)
        case "search.space":
            return complete_dimension(incomplete)
        case "origin.from_trial":
            return _trials(incomplete)
        case "data.path" | "data.valid" | "data.valid_split" | "data.split" | "model.vocab":
            return _files(incomplete)
    return []


def describe_job(job: JobSummary) -> str:
    """Return what is shown beside an id."""
    from bertjobs.cli.output.formatting import printable

    return f"{job.state} {job.kind} {printable(job.name)}".rstrip()


def _models(incomplete: str) -> list[CompletionItem]:
    """Return jobs that have or will have a model, sizes, and files."""
    from bertjobs.config import KINDS_WITH_MODEL
    from bertjobs.config.presets import size_names

    states = {State.SUCCEEDED, *NOT_ENDED}
    jobs = [
        CompletionItem(job.id, help=describe_job(job))
        for job in _jobs(states=states)
        if job.kind in KINDS_WITH_MODEL and job.id.startswith(incomplete)
    ]
    sizes = [
        CompletionItem(item.value, help="random weights") for item in _matching(size_names(), incomplete)
    ]
    return [*jobs[:MAX_SHOWN], *sizes, *_files(incomplete)]


def _trials(incomplete: str) -> list[CompletionItem]:
    """Return searches; after `JOB:` its trials."""
    job_id, colon, _ = incomplete.partition(":")
    if not colon:
        jobs = [job for job in _jobs() if job.kind == "tune" and job.id.startswith(incomplete)]
        return [CompletionItem(job.id, help=describe_job(job)) for job in jobs[:MAX_SHOWN]]
    return [
        CompletionItem(f"{job_id}:{number}", help=text)
        for number, text in _within(lambda: list(_read_trials(job_id)))
        if f"{job_id}:{number}".startswith(incomplete)
    ]


def _read_trials(job_id: str) -> Iterator[tuple[int, str]]:
    from bertjobs.cli.output.formatting import format_number, printable
    from bertjobs.runs.tune.search_document import read_trials_of

    _, trials = read_trials_of(_read_job(job_id))
    for trial in trials:
        values = ", ".join(f"{path}={format_number(value)}" for path, value in trial.values.items())
        yield trial.number, printable(f"{trial.state} {values}")


def _matching(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _files(incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def _jobs(*, states: Iterable[State] | None = None) -> list[JobSummary]:
    chosen = None if states is None else list(states)

    def read() -> list[JobSummary]:
        from bertjobs.cli.context import open_running_queue

        return open_running_queue(timeout_s=PATIENCE_S).list(states=chosen, limit=_NUM_READ)

    return _within(read)


def _read_job(job_id: str) -> Job:
    from bertjobs.cli.context import open_running_queue

    return open_running_queue(timeout_s=PATIENCE_S).get(job_id)


def _within(read: Callable[[], list[T]]) -> list[T]:
    """Return what `read` returns; nothing where it fails or takes too long.

    In a thread, because no timeout of Redis covers the look-up of a host's name. The process ends without it.
    """
    import_redis_alone()  # takes as long as it takes; the patience is for the queue
    found: list[T] = []

    def run() -> None:
        try:
            found.extend(read())
        except (BertjobsError, OSError):
            return  # Tab on a queue that is away offers nothing, and says nothing

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(1.5 * PATIENCE_S)
    return list(found)
