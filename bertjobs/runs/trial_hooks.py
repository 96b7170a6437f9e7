"""What the step loop calls while a trial goes: its progress onto the board, its evaluations to the search."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from bertjobs.runs.board import BoardHandle
from bertjobs.runs.reporting import PROGRESS_INTERVAL_S
from bertjobs.runs.trials import Evaluation, score_of
from bertjobs.storage import JobDir
from bertjobs.training.plan import Plan
from bertjobs.training.progress import EpochResult, Progress
from bertjobs.training.record import read_record

LATEST = "latest.json"
"""Which checkpoint of a trial is whole, for the driver that goes on with it."""

Report = Callable[[dict[str, Any]], None]


class TrialHooks:
    """`training.Hooks` of a trial; lives in the worker of rank 0."""

    def __init__(
        self, number: int, *, metric: str, plan: Plan, folder: JobDir, board: BoardHandle, report: Report
    ) -> None:
        self._number, self._metric, self._plan = number, metric, plan
        self._folder, self._board, self._report = folder, board, report
        self._last_note = float("-inf")
        self._num_reported = 0
        self.history: list[Evaluation] = []
        """All evaluations of the trial, those of earlier attempts included."""

    def take_up(self) -> str | None:
        """Return the checkpoint that a trial which was broken off goes on from; None to begin."""
        if not self._folder.exists(LATEST):
            return None
        latest = self._folder.read_json(LATEST)
        if not self._folder.exists(f"checkpoints/{latest['name']}"):
            return None
        lines = [line for line in read_record(self._folder) if line["kind"] == "epoch"]
        self.history = [self._evaluation(line) for line in lines if line["step"] <= latest["step"]]
        return str(latest["name"])

    def on_progress(self, progress: Progress) -> None:
        now, is_last = time.monotonic(), progress.step == progress.num_steps
        if now - self._last_note >= PROGRESS_INTERVAL_S or is_last:
            self._last_note = now
            values = {"step": progress.step, "epoch": progress.step / self._plan.steps_per_epoch}
            self._board.put_progress(self._number, values | {"examples_per_s": progress.examples_per_s})

    def on_epoch(self, result: EpochResult) -> None:
        self.history.append(self._evaluation({"step": result.step, **result.metrics.curves()}))

    def publish_checkpoint(self, name: str, step: int) -> None:
        """Report evaluations only now: the stopper ends a trial in there, and its weights must be left.

        The evaluation after the last step is the return value's: a trial that is complete is not stopped.
        """
        self._folder.write_json(LATEST, {"name": name, "step": step})
        if len(self.history) > self._num_reported and step < self._plan.num_steps:
            self._num_reported = len(self.history)
            self._report(self.summary())

    def should_stop(self) -> str | None:
        return None

    def summary(self) -> dict[str, Any]:
        """Return what the search compares trials by: `value` is better when higher, over `num_examples`."""
        last = self.history[-1]
        return {
            "value": score_of(last, self._metric),
            "num_examples": last.num_examples,
            "history": [asdict(evaluation) for evaluation in self.history],
        }

    def _evaluation(self, line: Mapping[str, Any]) -> Evaluation:
        step = int(line["step"])
        scores = {name: float(line[name]) for name in ("accuracy", "mcc", "f1", "loss")}
        return Evaluation(
            num_examples=self._plan.num_examples(step),
            step=step,
            epoch=step / self._plan.steps_per_epoch,
            **scores,
        )
