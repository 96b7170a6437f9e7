"""`bertjobs plot`: the curves of a job, also of one that is still running."""

from pathlib import Path, PurePath

import click

from bertjobs.cli.context import open_queue
from bertjobs.cli.output.formatting import printable
from bertjobs.cli.output.render import print_json, print_line
from bertjobs.cli.params import job_argument, json_option
from bertjobs.errors import DataError, StorageError
from bertjobs.jobs.curves import read_curves
from bertjobs.jobs.job import Job
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.runs.tune.search_document import read_trials_of
from bertjobs.text.datasets.tasks import resolve_task

CURVES = "plots/curves.png"


@click.command()
@job_argument()
@click.option(
    "-o", "--output", type=Path, metavar="FILE", help="Write the picture to this PNG file; not for a search."
)
@json_option
def plot(job: str, output: Path | None, as_json: bool) -> None:
    """Draw loss, scores and learning rate over the steps; print the paths of the pictures."""
    store = open_queue()
    found = store.get(job)
    if output is not None and found.kind == "tune":
        raise click.UsageError(
            f"--output {output}: {found.id} is a search, which has several pictures in its own folder"
        )
    if output is None:
        pictures = _plot_in_folder(store, found)
    else:
        pictures = [_write_picture(output, _main_picture(store, found))]
    if as_json:
        print_json({"id": found.id, "plots": pictures})
    else:
        print_line("\n".join(pictures))


def _plot_in_folder(store: JobStore, job: Job) -> list[str]:
    """Draw into the job's folder what changes while it runs; return the paths of all its pictures."""
    pictures: list[str] = []
    if job.kind == "finetune":
        job.job_dir.write_bytes(CURVES, _draw_finetuning(store, job))
        pictures = [job.job_dir.path_of(CURVES)]
    elif job.kind == "tune" and not job.state.is_terminal:
        pictures = _draw_search(job)
    pictures += [path for path in _stored_pictures(job) if path not in pictures]
    if not pictures:
        raise _no_picture(job)
    return pictures


def _main_picture(store: JobStore, job: Job) -> bytes:
    """Return the picture that `--output` gets: the curves, or an evaluation's confusion matrix."""
    if job.kind == "finetune":
        return _draw_finetuning(store, job)
    stored = _stored_pictures(job)
    if not stored:
        raise _no_picture(job)
    # By its place in the job's folder, which may have been moved.
    parts = PurePath(stored[0]).parts
    is_in_folder = job.id in parts
    name = "/".join(parts[parts.index(job.id) + 1 :]) if is_in_folder else f"plots/{parts[-1]}"
    return job.job_dir.read_bytes(name)


def _write_picture(output: Path, png: bytes) -> str:
    try:
        output.write_bytes(png)
    except OSError as e:
        raise StorageError(f"--output {output}: {e.strerror}", hint="Give another file.") from e
    return str(output.absolute())


def _stored_pictures(job: Job) -> list[str]:
    """Return the paths of the pictures that the job itself has drawn."""
    return [str(path) for path in job.artifacts.get("plots", [])]


def _no_picture(job: Job) -> DataError:
    hint = "" if job.state.is_terminal else f"`bertjobs watch {job.id}` shows when it has ended."
    return DataError(f"{job.id} ({job.kind}, {job.state}) has no picture", hint=hint)


def _draw_finetuning(store: JobStore, job: Job) -> bytes:
    from bertjobs.training.monitoring.plots import draw_curves  # matplotlib: half a second

    metric = resolve_task(job.config["task"]["name"]).metric
    lines = read_curves(store, job).lines
    if not lines:
        raise DataError(
            f"{job.id} is {job.state} and has not reported a step yet",
            hint=f"`bertjobs watch {job.id}` shows its first step.",
        )
    return draw_curves(lines, metric=metric, title=printable(f"{job.id} {job.name}".strip()))


def _draw_search(job: Job) -> list[str]:
    """Draw the trials of a running search so far, into its folder."""
    from bertjobs.runs.tune.plots import save_plots  # matplotlib, as above

    search, trials = read_trials_of(job)
    return [job.job_dir.path_of(name) for name in save_plots(job.job_dir, search, trials)]
