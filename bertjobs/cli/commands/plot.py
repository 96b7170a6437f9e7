"""`bertjobs plot`: the pictures of a job, also of one that still runs, and of several over one another."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import click

from bertjobs.cli.commands.tensorboard import open_tensorboard
from bertjobs.cli.context import open_queue
from bertjobs.cli.output.formatting import printable
from bertjobs.cli.output.render import print_json, print_line
from bertjobs.cli.params import jobs_argument, json_option
from bertjobs.config.difference import values_by_path
from bertjobs.errors import BertjobsError, ConfigError, DataError, StorageError
from bertjobs.jobs.curves import read_curves
from bertjobs.jobs.job import Job, State
from bertjobs.jobs.queue import JobQueue
from bertjobs.runs.tune.search_document import read_trials_of
from bertjobs.text.datasets.tasks import resolve_task

CURVES = "plots/curves.png"
COMPARED_KINDS = ("finetune", "pretrain")
_MEAN = "Of several jobs: draw the mean of those that differ in their seed only, and its spread."


@click.command()
@jobs_argument()
@click.option(
    "-o", "--output", type=Path, metavar="FILE", help="Write the picture to this PNG file; not for a search."
)
@click.option("--mean", is_flag=True, help=_MEAN)
@click.option("--tensorboard", is_flag=True, help="Open TensorBoard on the jobs instead; Ctrl-C ends it.")
@json_option
def plot(jobs: tuple[str, ...], output: Path | None, mean: bool, tensorboard: bool, as_json: bool) -> int:
    """Draw the curves and the predictions of a job; print the paths of the pictures.

    Of one job: loss, scores and learning rate over the steps; from its predictions the confusion matrix,
    calibration and accuracy by length, or the scatter of scores. Of several jobs (with --output): their
    curves over one another, labelled by what differs in their configurations.
    """
    if tensorboard and (output is not None or mean or as_json):
        raise click.UsageError("--tensorboard excludes --output, --mean and --json")
    store = open_queue()
    found = [store.get(job) for job in dict.fromkeys(jobs)]
    if tensorboard:
        return open_tensorboard(found)
    if len(found) == 1:
        if mean:
            raise click.UsageError("--mean needs several jobs")
        pictures = _plot_one(store, found[0], output)
        about: dict[str, Any] = {"id": found[0].id}
    else:
        if output is None:
            raise click.UsageError("Several jobs have no folder in common: give the picture's --output FILE")
        pictures = [_write_picture(output, _draw_comparison(store, found, mean=mean))]
        about = {"ids": [job.id for job in found]}
    if as_json:
        print_json({**about, "plots": pictures})
    else:
        print_line("\n".join(pictures))
    return 0


def _plot_one(store: JobQueue, job: Job, output: Path | None) -> list[str]:
    if output is None:
        return _plot_in_folder(store, job)
    if job.kind == "tune":
        raise click.UsageError(
            f"--output {output}: {job.id} is a search, which has several pictures in its own folder"
        )
    return [_write_picture(output, _main_picture(store, job))]


def _plot_in_folder(store: JobQueue, job: Job) -> list[str]:
    """Draw into the job's folder what changes while it runs; return the paths of all its pictures."""
    pictures: list[str] = []
    if job.kind == "finetune":
        job.job_dir.write_bytes(CURVES, _draw_finetuning(store, job))
        pictures = [job.job_dir.path_of(CURVES)]
    elif job.kind == "tune" and not job.state.is_terminal:
        pictures = _draw_search(job)
    pictures += [path for path in _stored_pictures(job) if path not in pictures]
    pictures += [path for path in _draw_predictions(job) if path not in pictures]
    if not pictures:
        raise _no_picture(job)
    return pictures


def _draw_predictions(job: Job) -> list[str]:
    """Draw the predictions of a job that has some, into its folder."""
    stored = job.artifacts.get("predictions")
    if job.kind not in ("finetune", "evaluate") or job.state is not State.SUCCEEDED or not stored:
        return []
    from bertjobs.runs.artefacts import read_predictions  # torch and pyarrow
    from bertjobs.training.tasks.types import task_type

    try:
        task = resolve_task(job.config["task"]["name"])
    except ConfigError:
        return []  # a task file of another machine
    table = read_predictions(job.job_dir, _name_in_folder(job, str(stored)))
    title = printable(f"{job.id} {job.name}".strip()) + f": {task.name}"
    pictures = task_type(task).prediction_plots(table, title=title)
    kept = {PurePath(path).name for path in _stored_pictures(job)}  # the job has drawn these itself
    for name, png in pictures.items():
        if name not in kept:
            job.job_dir.write_bytes(f"plots/{name}", png)
    return [job.job_dir.path_of(f"plots/{name}") for name in pictures if name not in kept]


def _draw_comparison(store: JobQueue, jobs: Sequence[Job], *, mean: bool) -> bytes:
    """Draw the curves of jobs of one kind over one another. Raises: DataError: they cannot be compared."""
    kinds = sorted({job.kind for job in jobs})
    if len(kinds) > 1 or kinds[0] not in COMPARED_KINDS:
        raise DataError(
            f"Jobs of the kinds {', '.join(kinds)} cannot be drawn over one another",
            hint="Give fine-tunings, or pretrainings.",
        )
    from bertjobs.training.monitoring.comparison_plots import SEED, Curve, draw_comparison, label_jobs

    curves = [read_curves(store, job) for job in jobs]
    for job, curve in zip(jobs, curves, strict=True):
        if not curve.lines:
            raise _no_steps(job)
    values = values_by_path([job.config for job in jobs])
    seeds = values.pop(SEED, [None] * len(jobs))
    groups: dict[Any, list[int]] = {}
    for number in range(len(jobs)):
        key = tuple(repr(found[number]) for found in values.values()) if mean else number
        groups.setdefault(key, []).append(number)
    if not mean:
        values[SEED] = seeds
    firsts = [members[0] for members in groups.values()]
    names = [printable(jobs[number].name or jobs[number].id) for number in firsts]
    labels = label_jobs({path: [found[n] for n in firsts] for path, found in values.items()}, names)
    drawn = [
        Curve(
            label=printable(f"{label} (mean of {len(members)})" if len(members) > 1 else label),
            runs=[curves[number].lines for number in members],
        )
        for label, members in zip(labels, groups.values(), strict=True)
    ]
    metric = "mlm_accuracy" if kinds[0] == "pretrain" else next((c.metric for c in curves if c.metric), None)
    return draw_comparison(drawn, metric=metric, title=f"{len(jobs)} jobs ({kinds[0]})")


def _main_picture(store: JobQueue, job: Job) -> bytes:
    """Return the picture that `--output` gets: the curves, or an evaluation's confusion matrix."""
    if job.kind == "finetune":
        return _draw_finetuning(store, job)
    stored = _stored_pictures(job)
    if not stored:
        raise _no_picture(job)
    return job.job_dir.read_bytes(_name_in_folder(job, stored[0], of_old="plots"))


def _name_in_folder(job: Job, path: str, *, of_old: str = "") -> str:
    """Return a file's name by its place in the job's folder, which may have been moved."""
    parts = PurePath(path).parts
    if job.id in parts:
        return "/".join(parts[parts.index(job.id) + 1 :])
    return f"{of_old}/{parts[-1]}" if of_old else parts[-1]


def _write_picture(output: Path, png: bytes) -> str:
    try:
        output.write_bytes(png)
    except OSError as e:
        raise StorageError(f"--output {output}: {e.strerror}", hint="Give another file.") from e
    return str(output.absolute())


def _stored_pictures(job: Job) -> list[str]:
    """Return the paths of the pictures that the job itself has drawn."""
    return [str(path) for path in job.artifacts.get("plots", [])]


def _no_picture(job: Job) -> BertjobsError:
    hint = "" if job.state.is_terminal else f"`bertjobs watch {job.id}` shows when it has ended."
    return DataError(f"{job.id} ({job.kind}, {job.state}) has no picture", hint=hint)


def _no_steps(job: Job) -> BertjobsError:
    return DataError(
        f"{job.id} is {job.state} and has not reported a step yet",
        hint=f"`bertjobs watch {job.id}` shows its first step.",
    )


def _draw_finetuning(store: JobQueue, job: Job) -> bytes:
    from bertjobs.training.monitoring.plots import draw_curves  # matplotlib: half a second

    metric = resolve_task(job.config["task"]["name"]).metric
    lines = read_curves(store, job).lines
    if not lines:
        raise _no_steps(job)
    return draw_curves(lines, metric=metric, title=printable(f"{job.id} {job.name}".strip()))


def _draw_search(job: Job) -> list[str]:
    """Draw the trials of a running search so far, into its folder."""
    from bertjobs.runs.tune.plots import save_plots  # matplotlib, as above

    search, trials = read_trials_of(job)
    return [job.job_dir.path_of(name) for name in save_plots(job.job_dir, search, trials)]
