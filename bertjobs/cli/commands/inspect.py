"""`bertjobs inspect`: the rows that a job's model predicts worst, and its errors by class and by length."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import click

from bertjobs.cli.context import open_queue
from bertjobs.cli.output.errors import print_error_report
from bertjobs.cli.output.render import print_json
from bertjobs.cli.params import job_argument, json_option
from bertjobs.errors import DataError
from bertjobs.jobs.job import Job

_FILE = "predictions.parquet"


@click.command()
@job_argument(kinds=("finetune", "tune", "evaluate"))
@click.option("--split", metavar="NAME", help="Which split, of an evaluation of several; default: the first.")
@click.option(
    "--worst",
    "num_worst",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Rows with the largest losses to show.",
)
@json_option
def inspect(job: str, split: str | None, num_worst: int, as_json: bool) -> None:
    """Show what the model of a job does worst on its development or evaluated split.

    The largest losses with their texts, errors per class and per length in words, and which labels are taken
    for which; of questions the worst F1. JOB may be the folder of `bertjobs run` as well.
    """
    if Path(job).is_dir():
        name, content = job, _read_folder(Path(job), split)
    else:
        found = open_queue().get(job)
        name, content = found.id, found.job_dir.read_bytes(_file_of(found, split))
    # pyarrow and numpy: a wrong id should not wait for them
    from bertjobs.text.error_report import read_error_report

    report = {"job": name, **read_error_report(content, num_worst=num_worst)}
    print_json(report) if as_json else print_error_report(report)


def _read_folder(folder: Path, split: str | None) -> bytes:
    path = folder / (_FILE if split is None else f"predictions-{split}.parquet")
    if not path.is_file():
        raise DataError(
            f"{folder} has no {path.name}", hint="Give the folder of a finetune or evaluate run, or a job."
        )
    return path.read_bytes()


def _file_of(job: Job, split: str | None) -> str:
    """Return the path of a job's predictions in its folder. Raises: DataError: it has none."""
    artifacts: Mapping[str, Any] = job.artifacts
    path = artifacts.get("predictions")
    if job.kind not in ("finetune", "tune", "evaluate") or not isinstance(path, str):
        raise DataError(
            f"{job.id} ({job.kind}, {job.state}) has no predictions of a split",
            hint="Give a finetune, tune or evaluate job that has succeeded; see `bertjobs list`.",
        )
    by_split = artifacts.get("predictions_of", {})
    if split is not None:
        if split not in by_split:
            known = ", ".join(by_split) or "one split only, so leave --split out"
            raise DataError(f"--split {split}: {job.id} has predictions of {known}")
        path = by_split[split]
    # By its place in the job's folder, which may have been moved.
    parts = PurePosixPath(path).parts
    return "/".join(parts[parts.index(job.id) + 1 :]) if job.id in parts else parts[-1]
