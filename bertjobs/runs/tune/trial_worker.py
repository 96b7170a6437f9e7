"""What runs for one trial: the step loop, in an actor that the next trial uses again; or, for a trial of
several workers, a gang of Ray Train that the actor starts and listens to.

What the step loop calls while a trial goes: its progress onto the board, its evaluations to the search.

Correct answers by the length of the example: what truncation changes, and where. Pure numpy.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.util.placement_group import get_current_placement_group
from ray.util.queue import Queue

from bertjobs.config import FinetuneConfig, load_config, stored_layer
from bertjobs.config.sections import TextSection
from bertjobs.errors import BertjobsError
from bertjobs.jobs.job import Grant
from bertjobs.runs import finetune, ray_train
from bertjobs.runs.finetune import Lesson
from bertjobs.runs.ray_internals import reports_of_trial
from bertjobs.runs.reporting import PROGRESS_INTERVAL_S
from bertjobs.runs.tune.progress_actor import BoardHandle
from bertjobs.runs.tune.trial_records import Evaluation, folder_of, score_of
from bertjobs.runs.tune.trial_resources import Slots
from bertjobs.settings import Settings, load_settings
from bertjobs.storage import JobDir
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.truncation import uncut_sequence_lengths
from bertjobs.training.batches import Plan, make_plan
from bertjobs.training.distributed import current_ranks
from bertjobs.training.metrics_log import read_record
from bertjobs.training.progress import EpochResult, Progress

QUEUE_POLL_S = 0.05
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class TrialWork:
    """What all trials of a search have in common."""

    lesson: Lesson
    metric: str
    job_dir: JobDir
    job_id: str
    attempt: int
    board: BoardHandle
    slots: Slots
    counts_lengths: bool
    """Whether any example is cut, so that it is worth knowing who is right at which length."""


def run_trial(config: dict[str, Any], *, work: TrialWork) -> dict[str, Any]:
    """Do one trial inside a Tune actor; `config` holds its number and its resolved configuration.

    Reports each evaluation that is not the last one. Where the stopper ends the trial, it ends in there.
    """
    number, trial = config["number"], load_config("finetune", stored_layer(config["config"]))
    assert isinstance(trial, FinetuneConfig)
    folder_of(work.job_dir, number).recover()
    try:
        if work.slots.workers_per_trial > 1:
            return _run_gang(work, number, trial)
        ray_train.set_threads(work.slots.grant, workers_on_node=1)
        return _train(work, number, trial, report=tune.report, device=_device(work.slots))
    except BertjobsError as e:
        work.board.put_failure(number, e.failure, str(e))
        raise


def _train(
    work: TrialWork, number: int, config: FinetuneConfig, *, report: Report, device: torch.device
) -> dict[str, Any]:
    """Train one trial on this rank; return its last report."""
    began = time.monotonic()
    num_rows = EncodedTable.from_arrow(ray_train.fetch(work.lesson.train)).num_rows
    folder = folder_of(work.job_dir, number)
    hooks = TrialHooks(
        number,
        metric=work.metric,
        plan=make_plan(num_rows, train=config.train),
        folder=folder,
        board=work.board,
        report=report,
    )
    resume = hooks.take_up()
    model = finetune.build(work.lesson, config=config, device=device)
    finetune.train(
        model,
        lesson=work.lesson,
        config=config,
        metric=work.metric,
        job_dir=folder,
        hooks=hooks,
        resume=resume,
        draws=False,
    )
    if not current_ranks().is_first:
        return {}
    return hooks.summary() | {
        "has_finished": True,
        "by_length": _count_lengths(work, model, config) if work.counts_lengths else (),
        "train_s": time.monotonic() - began,
    }


def _count_lengths(work: TrialWork, model: Any, config: FinetuneConfig) -> tuple[dict[str, Any], ...]:
    """Count who is right at which length. A rank of a gang has only its part of the rows, and counts none."""
    if work.slots.workers_per_trial > 1:
        return ()
    predictions, _ = finetune.predict(model, lesson=work.lesson, config=config)
    valid = EncodedTable.from_arrow(ray_train.fetch(work.lesson.valid))
    return count_correct(valid, predictions.probabilities, text=config.text)


@dataclass(frozen=True, kw_only=True)
class _TrialRun:
    """A trial of several workers, as `gang.train` sees a run."""

    id: str
    attempt: int
    settings: Settings
    grant: Grant


def _run_gang(work: TrialWork, number: int, config: FinetuneConfig) -> dict[str, Any]:
    """Start the trial's workers under Ray Train; their first rank reports through this actor's queue.

    `train.report` is a barrier of all ranks that is drained every 2 s, and hooks run on rank 0 only; the
    queue asks for neither.
    """
    slots = work.slots
    run = _TrialRun(
        id=f"{work.job_id}-t{number}",
        attempt=work.attempt,
        settings=load_settings(),
        grant=slots.grant,
    )
    given = {"work": work, "number": number, "config": config, "queue": reports_of_trial()}
    returned: dict[str, Any] = ray_train.train(run, _gang_worker, work=given)
    return returned


def _gang_worker(given: dict[str, Any]) -> dict[str, Any]:
    # Before anything else: a trial can be stopped or killed at any time, and leaves its workers behind.
    given["work"].board.put_placement(given["number"], get_current_placement_group())
    ray_train.set_threads(given["grant"], workers_on_node=ray.train.get_context().get_local_world_size())
    return _train(
        given["work"],
        given["number"],
        given["config"],
        report=partial(_report_through, given["queue"]),
        device=ray.train.torch.get_device(),
    )


def _report_through(queue: Queue, values: dict[str, Any]) -> None:
    """Hand a report on and wait until it is taken: a gang that was stopped comes only as far as its next one,
    where the checkpoint that the search knows of is still there."""
    queue.put(values)
    while not queue.empty():
        time.sleep(QUEUE_POLL_S)


def _device(slots: Slots) -> torch.device:
    return torch.device("cuda" if slots.gpus_per_worker else "cpu")


LATEST = "latest.json"
"""Which checkpoint of a trial is whole, for the driver that goes on with it."""


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


EDGES = (0.0, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Buckets in shares of max_len, each up to and including the next edge: above 1 an example is cut."""


def cut_ratio(table: EncodedTable, *, max_len: int) -> float:
    """Return the share of the examples that do not fit; every strategy cuts the same ones."""
    return float((uncut_sequence_lengths(table.lengths_a, table.lengths_b) > max_len).mean())


def count_correct(
    table: EncodedTable, probabilities: np.ndarray, *, text: TextSection
) -> tuple[dict[str, Any], ...]:
    """Count correct answers per bucket of length.

    probabilities: (rows, labels). Returns `{"above", "up_to", "num_examples", "num_correct"}` per bucket, the
    bounds in shares of max_len; `up_to` is None for the last.
    """
    ratios = uncut_sequence_lengths(table.lengths_a, table.lengths_b) / text.max_len
    is_correct = probabilities.argmax(axis=1) == table.labels
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
