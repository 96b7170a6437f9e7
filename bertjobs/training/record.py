"""The series behind the curves: a JSON line per step and per evaluation, and the same for TensorBoard."""

import json
from collections.abc import Mapping
from typing import Any

from bertjobs.storage import JobDir
from bertjobs.training.progress import EpochResult, Progress
from bertjobs.training.tensorboard import TensorBoard

Line = Mapping[str, Any]
"""`{"kind": "step", "step", "epoch", "loss", "lr", ...}` or `{"kind": "epoch", "step", "accuracy", ...}`."""

_NAME = "metrics.jsonl"


class Record:
    """What happened so far in all attempts, kept in memory and saved as a whole with each checkpoint."""

    def __init__(self, job_dir: JobDir, *, num_done: int, num_steps: int) -> None:
        self._job_dir = job_dir
        self._tensorboard = TensorBoard(job_dir, num_steps=num_steps, first_step=num_done)
        self.lines: list[Line] = [line for line in read_record(job_dir) if line["step"] <= num_done]

    def add_step(self, progress: Progress) -> None:
        line = progress.to_json()
        del line["num_steps"], line["eta_s"]
        self.lines.append({"kind": "step", **line})
        self._tensorboard.add_step(progress)

    def add_epoch(self, result: EpochResult) -> None:
        place = {"epoch": result.epoch, "step": result.step, "is_best": result.is_best}
        self.lines.append({"kind": "epoch", **place, **result.metrics.curves()})
        self._tensorboard.add_epoch(result)

    def save(self) -> None:
        """Write the whole series."""
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        self._job_dir.write_bytes(_NAME, text.encode())
        self._tensorboard.save()

    def close(self) -> None:
        self._tensorboard.close()


def read_record(job_dir: JobDir) -> list[Line]:
    """Read the series of a job; empty where none was saved yet."""
    if not job_dir.exists(_NAME):
        return []
    return [json.loads(line) for line in job_dir.read_bytes(_NAME).splitlines()]
