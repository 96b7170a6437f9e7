"""Run one trial: the step loop, in an actor that later trials reuse; or, for a trial of several workers, a
worker group of Ray Train that the actor starts and listens to.

Knows of Tune only the report function. The end of the file counts correct answers by the length of the
example, to show what truncation changes.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray import tune
from ray.util.placement_group import get_current_placement_group
from ray.util.queue import Queue

from bertjobs.config import FinetuneConfig
from bertjobs.config.sections import TextSection
from bertjobs.errors import BertjobsError
from bertjobs.jobs.driver.throttle import PROGRESS_INTERVAL_S, Throttle
from bertjobs.runs import ray_train
from bertjobs.runs.finetune import TrainingInputs, predict
from bertjobs.runs.ray_internals import reports_of_trial
from bertjobs.runs.tune.progress_actor import ProgressHandle
from bertjobs.runs.tune.trial_records import TrialEvaluation, folder_of, score_of
from bertjobs.runs.tune.trial_resources import TrialResources
from bertjobs.settings import load_settings
from bertjobs.storage import JobDir
from bertjobs.text.datasets.task import METRIC_NAMES
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.truncation import uncut_sequence_lengths
from bertjobs.training.batches import BatchSampler, make_batch_sampler
from bertjobs.training.distributed import current_ranks
from bertjobs.training.finetune import finetune
from bertjobs.training.monitoring import activity
from bertjobs.training.monitoring.metrics_file import read_metrics_log
from bertjobs.training.monitoring.progress import EpochResult, Progress
from bertjobs.training.tasks.task_type import TaskModel
from bertjobs.training.tasks.types import task_type

QUEUE_POLL_S = 0.05
LATEST = "latest.json"
"""Names the last complete checkpoint of a trial, for the driver that resumes it."""

SIGNS_INTERVAL_S = 10.0
NUM_SIGNS = "num_signs"
"""Of the values that a trial reports: signs of life that are no steps."""

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class TrialWork:
    """What all trials of a search share."""

    inputs: TrainingInputs
    metric: str
    job_dir: JobDir
    job_id: str
    attempt: int
    progress: ProgressHandle
    resources: TrialResources
    counts_lengths: bool
    """Whether any example is truncated, so that correct answers are counted by length."""


def run_trial(config: dict[str, Any], *, work: TrialWork) -> dict[str, Any]:
    """Run one trial inside a Tune actor; `config` has its `number` and its validated configuration, `trial`.

    Reports each evaluation that is not the last one; where the scheduler stops the trial, the report does not
    return.
    """
    number: int = config["number"]
    trial: FinetuneConfig = config["trial"]
    folder_of(work.job_dir, number).recover()
    try:
        if work.resources.has_worker_groups:
            return _run_group(work, number, trial)
        device = ray_train.set_up_worker(work.resources.grant)
        return _train(work, number, trial, report=tune.report, device=device)
    except BertjobsError as e:
        work.progress.set_failure(number, e.failure, str(e))
        raise


def _train(
    work: TrialWork, number: int, config: FinetuneConfig, *, report: Report, device: torch.device
) -> dict[str, Any]:
    """Train one trial on this rank; return its last report."""
    began = time.monotonic()
    inputs, folder = work.inputs, folder_of(work.job_dir, number)
    train = inputs.train_table(config.text)
    hooks = TrialHooks(
        number,
        metric=work.metric,
        plan=make_batch_sampler(train.num_rows, train=config.train),
        folder=folder,
        progress=work.progress,
        report=report,
    )
    resume = hooks.load_checkpoint()
    model = inputs.build_model(config, device=device)
    # A search compares best evaluations, and its model is that of the best one.
    best = config.train.model_copy(update={"keep_weights": "best", "profile": None})
    is_first = current_ranks().is_first
    with activity.listening(hooks.note_activity) if is_first else nullcontext():
        finetune(
            model,
            config=config.model_copy(update={"train": best}),
            train=train,
            valid=inputs.valid_table(config.text),
            task=task_type(inputs.task),
            tokenizer=inputs.tokenizer,
            metric=work.metric,
            job_dir=folder,
            hooks=hooks,
            resume=resume,
            data_parallel=ray_train.data_parallel,
            draws=False,
            # A trial reports an evaluation once its checkpoint is there, and may be stopped at that step.
            writes_behind=False,
        )
    if not is_first:
        return {}
    return hooks.summary() | {
        "has_finished": True,
        "by_length": _count_lengths(work, model, config) if work.counts_lengths else (),
        "train_s": time.monotonic() - began,
    }


def _count_lengths(work: TrialWork, model: TaskModel, config: FinetuneConfig) -> tuple[dict[str, Any], ...]:
    """Count correct answers by length. A rank of a group predicts only its part of the rows: none then."""
    if work.resources.has_worker_groups:
        return ()
    predictions, _ = predict(model, inputs=work.inputs, config=config)
    table = work.inputs.valid_table(config.text)
    is_correct = task_type(work.inputs.task).is_correct(table, predictions.outputs)
    return () if is_correct is None else count_correct(table, is_correct, text=config.text)


def _run_group(work: TrialWork, number: int, config: FinetuneConfig) -> dict[str, Any]:
    """Start the trial's workers under Ray Train; rank 0 reports through this actor's queue.

    `train.report` is a barrier of all ranks that is drained every 2 s, and hooks run on rank 0 only; the
    queue needs neither.
    """
    returned: dict[str, Any] = ray_train.run_group(
        _train_rank,
        _RankWork(work=work, number=number, config=config, reports=reports_of_trial()),
        grant=work.resources.grant,
        run_name=f"{work.job_id}-t{number}-a{work.attempt}",
        settings=load_settings(),
    )
    return returned


@dataclass(frozen=True, kw_only=True)
class _RankWork:
    """What every rank of a trial's worker group is given."""

    work: TrialWork
    number: int
    config: FinetuneConfig
    reports: Queue


def _train_rank(given: _RankWork) -> dict[str, Any]:
    # Before anything else: a trial can be stopped or killed at any time, and leaves its workers behind.
    placement = get_current_placement_group()
    assert placement is not None, "Ray Train starts its workers in a placement group"
    given.work.progress.set_placement(given.number, placement)
    return _train(
        given.work,
        given.number,
        given.config,
        report=partial(_report_through, given.reports),
        device=ray_train.set_up_worker(given.work.resources.grant),
    )


def _report_through(reports: Queue, values: dict[str, Any]) -> None:
    """Send a report and wait until Tune has taken it.

    A worker group that is stopped thus trains no further than its next report, where the checkpoint that the
    search knows still exists.
    """
    reports.put(values)
    while not reports.empty():
        time.sleep(QUEUE_POLL_S)


class TrialHooks:
    """`training.Hooks` of a trial; lives in the worker of rank 0."""

    def __init__(
        self,
        number: int,
        *,
        metric: str,
        plan: BatchSampler,
        folder: JobDir,
        progress: ProgressHandle,
        report: Report,
    ) -> None:
        self._metric, self._plan, self._folder, self._report = metric, plan, folder, report
        self._progress = Throttle(
            lambda values: progress.set_progress(number, dict(values)), interval_s=PROGRESS_INTERVAL_S
        )
        self._num_reported = 0
        self._latest: dict[str, Any] | None = None
        self._signs = Throttle(self._send_signs, interval_s=SIGNS_INTERVAL_S)
        self._num_signs = 0
        self.history: list[TrialEvaluation] = []
        """All evaluations of the trial, those of earlier attempts included."""

    def load_checkpoint(self) -> str | None:
        """Load the history of an interrupted trial; return the checkpoint it resumes from, None to begin."""
        if not self._folder.exists(LATEST):
            return None
        latest = self._folder.read_json(LATEST)
        if not self._folder.exists(f"checkpoints/{latest['name']}"):
            return None
        lines = [line for line in read_metrics_log(self._folder) if line["kind"] == "epoch"]
        self.history = [self._evaluation(line) for line in lines if line["step"] <= latest["step"]]
        return str(latest["name"])

    def on_progress(self, progress: Progress) -> None:
        self._latest = {
            "step": progress.step,
            "epoch": progress.step / self._plan.steps_per_epoch,
            "examples_per_s": progress.examples_per_s,
        }
        self._progress.put(self._latest, at_once=progress.step == progress.num_steps)

    def note_activity(self) -> None:
        """Report that work has advanced that is no step, as a batch of an evaluation."""
        self._num_signs += 1
        self._signs.put({NUM_SIGNS: self._num_signs})

    def _send_signs(self, values: Mapping[str, Any]) -> None:
        if self._latest is not None:  # a step follows before anything takes long
            self._progress.put({**self._latest, **values}, at_once=True)

    def on_epoch(self, result: EpochResult) -> None:
        self._progress.flush()  # patience may end the trial here
        self.history.append(self._evaluation({"step": result.step, **result.metrics.curves()}))

    def before_checkpoint(self) -> None:
        """Do nothing: a trial has no lease; the search's driver has, and trials end with it."""

    def publish_checkpoint(self, name: str, step: int) -> None:
        """Report evaluations only now: the scheduler may stop the trial there, and its weights must remain.

        The evaluation after the last step is in the return value: a complete trial is never stopped.
        """
        self._folder.write_json(LATEST, {"name": name, "step": step})
        if len(self.history) > self._num_reported and step < self._plan.num_steps:
            self._num_reported = len(self.history)
            self._report(self.summary())

    def should_stop(self) -> str | None:
        return None

    def summary(self) -> dict[str, Any]:
        """Return what trials are compared by: `value`, better when higher, over `num_examples`."""
        last = self.history[-1]
        return {
            "value": score_of(last, self._metric),
            "num_examples": last.num_examples,
            "history": [evaluation.to_json() for evaluation in self.history],
        }

    def _evaluation(self, line: Mapping[str, Any]) -> TrialEvaluation:
        step = int(line["step"])
        scores = {name: float(line[name]) for name in METRIC_NAMES if name in line}
        return TrialEvaluation(
            num_examples=self._plan.num_examples(step),
            step=step,
            epoch=step / self._plan.steps_per_epoch,
            scores=scores,
        )


EDGES = (0.0, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Lower edges of the buckets, as ratios to max_len; above 1 an example is truncated."""


def cut_ratio(table: EncodedTable, *, max_len: int) -> float:
    """Return the ratio of examples that are truncated: the same ones with every strategy."""
    return float((_longest_of_rows(table) > max_len).mean())


def count_correct(
    table: EncodedTable, is_correct: npt.NDArray[np.bool_], *, text: TextSection
) -> tuple[dict[str, Any], ...]:
    """Count correct answers per bucket of length.

    is_correct: (rows). Returns `{"above", "up_to", "num_examples", "num_correct"}` per bucket, the
    bounds as ratios to max_len; `up_to` is None for the last.
    """
    ratios = _longest_of_rows(table) / text.max_len
    bucket = np.searchsorted(EDGES, ratios, side="left") - 1
    return tuple(
        {
            "above": edge,
            "up_to": EDGES[i + 1] if i + 1 < len(EDGES) else None,
            "num_examples": int((bucket == i).sum()),
            "num_correct": int(is_correct[bucket == i].sum()),
        }
        for i, edge in enumerate(EDGES)
    )


def _longest_of_rows(table: EncodedTable) -> npt.NDArray[np.int64]:
    """Return the length of the longest sequence of each row, before truncation."""
    lengths = uncut_sequence_lengths(table.lengths_a, table.lengths_b)
    if table.first_sequences is None:
        return lengths
    return np.maximum.reduceat(lengths, table.first_sequences[:-1])
