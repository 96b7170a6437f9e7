"""`bertjobs plot`: the curves of a job, also of one that is still running."""

from pathlib import Path
from typing import Any

import click

from bertjobs.cli.commands.trials import read_trials_of
from bertjobs.cli.context import open_queue
from bertjobs.cli.output.formatting import printable
from bertjobs.cli.output.render import print_json, print_line
from bertjobs.errors import DataError, StorageError
from bertjobs.jobs.job import Job
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.text.datasets.tasks import resolve_task

CURVES = "plots/curves.png"


@click.command()
@click.argument("job")
@click.option("-o", "--output", type=Path, metavar="FILE", help="Write this PNG instead of the job's own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def plot(job: str, output: Path | None, as_json: bool) -> None:
    """Draw loss, scores and learning rate over the steps; print where the pictures are."""
    store = open_queue()
    found = store.get(job)
    pictures = [_draw(store, found, output)] if found.kind == "finetune" else []
    if found.kind == "tune":
        if output is not None:
            raise click.UsageError("--output: a search has several pictures; they are in its own folder.")
        pictures = [] if found.state.is_terminal else _draw_search(found)
    if "plots" in found.artifacts:
        pictures += [str(path) for path in found.artifacts["plots"] if path not in pictures]
    if not pictures:
        raise DataError(f"{found.id} is {found.state} and has no picture yet.")
    if as_json:
        print_json({"id": found.id, "plots": pictures})
    else:
        print_line("\n".join(pictures))


def _draw(store: JobStore, job: Job, output: Path | None) -> str:
    from bertjobs.training.plots import draw_curves  # matplotlib: half a second

    metric = resolve_task(job.config["task"]["name"]).metric
    lines = _series(store, job)
    if not lines:
        raise DataError(
            f"{job.id} is {job.state} and has not reported a step yet.",
            hint=f"`bertjobs watch {job.id}` shows when it does.",
        )
    png = draw_curves(lines, metric=metric, title=printable(f"{job.id} {job.name}".strip()))
    if output is None:
        job.job_dir.write_bytes(CURVES, png)
        return job.job_dir.path_of(CURVES)
    try:
        output.write_bytes(png)
    except OSError as e:
        raise StorageError(f"--output {output}: {e.strerror}.", hint="Give another file.") from e
    return str(output.absolute())


def _draw_search(job: Job) -> list[str]:
    """Draw what the trials of a search that still runs have come to so far."""
    from bertjobs.runs.tune.plots import save_plots  # matplotlib, as above

    search, trials = read_trials_of(job)
    return [job.job_dir.path_of(name) for name in save_plots(job.job_dir, search, trials)]


def _series(store: JobStore, job: Job) -> list[dict[str, Any]]:
    """Return the series that is saved with each checkpoint, and what Redis has heard since."""
    from bertjobs.training.metrics_log import read_metrics_log  # torch

    saved = [dict(line) for line in read_metrics_log(job.job_dir)]
    last_step = saved[-1]["step"] if saved else 0
    # A step taken again after a lost worker is heard of twice; the later report counts.
    live = {v["step"]: {"kind": "step", **v} for v in store.metrics(job.id) if "lr" in v}
    return saved + [live[step] for step in sorted(live) if step > last_step]
