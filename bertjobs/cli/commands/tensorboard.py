"""`bertjobs plot --tensorboard`: TensorBoard on the event files of jobs, until Ctrl-C."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bertjobs.cli.main import INTERRUPTED
from bertjobs.cli.output.formatting import printable
from bertjobs.cli.output.render import print_note
from bertjobs.errors import ConfigError, DataError
from bertjobs.jobs.job import Job

EVENTS = "tensorboard"


def open_tensorboard(jobs: Sequence[Job]) -> int:
    """Run TensorBoard on the event files of jobs; return its exit code.

    Raises: ConfigError: it is not installed. DataError: a job has no event files.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("TensorBoard is not installed", hint="Install it: `pip install tensorboard`.")
    for job in jobs:
        if not job.job_dir.exists(EVENTS):
            raise DataError(
                f"{job.id} ({job.kind}, {job.state}) has no event files",
                hint="Pretrainings and fine-tunings write them from their first step on.",
            )
    with tempfile.TemporaryDirectory(prefix="bertjobs-") as folder:
        for job in jobs:
            link_events(job, Path(folder))
        print_note("Ctrl-C ends TensorBoard.")
        try:
            return subprocess.call([sys.executable, "-m", "tensorboard.main", "--logdir", folder])
        except KeyboardInterrupt:
            return INTERRUPTED


def link_events(job: Job, folder: Path) -> None:
    """Put a job's event files into a folder under its id and name: a link, or a copy of what is remote."""
    name = "".join(c if c.isalnum() or c in "-_. " else "_" for c in printable(job.name))[:40].strip()
    target = folder / f"{job.id} {name}".strip()
    source = job.job_dir.path_of(EVENTS)
    if "://" not in source:
        target.symlink_to(source, target_is_directory=True)
        return
    target.mkdir()
    with job.job_dir.open_dir(EVENTS) as local:
        for path in local.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
