"""What runs for one trial: the step loop, in an actor that the next trial uses again; or, for a trial of
several workers, a gang of Ray Train that the actor starts and listens to."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import torch
from ray import tune
from ray.train._internal.session import get_session
from ray.util.queue import Queue

from bertjobs.config import FinetuneConfig, load, stored_layer
from bertjobs.errors import BertjobsError
from bertjobs.jobs.job import Grant
from bertjobs.runs import classifier, gang
from bertjobs.runs.board import BoardHandle
from bertjobs.runs.classifier import Lesson
from bertjobs.runs.lengths import count_correct
from bertjobs.runs.slots import Slots
from bertjobs.runs.trial_hooks import Report, TrialHooks
from bertjobs.runs.trials import folder_of
from bertjobs.settings import Settings, load_settings
from bertjobs.storage import JobDir
from bertjobs.text.encoding import EncodedTable
from bertjobs.training.plan import make_plan
from bertjobs.training.ranks import current_ranks

QUEUE_POLL_S = 0.05


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
    number, trial = config["number"], load("finetune", stored_layer(config["config"]))
    assert isinstance(trial, FinetuneConfig)
    folder_of(work.job_dir, number).recover()
    try:
        if work.slots.workers_per_trial > 1:
            return _run_gang(work, number, trial)
        gang.set_threads(work.slots.grant, workers_on_node=1)
        return _train(work, number, trial, report=tune.report, device=_device(work.slots))
    except BertjobsError as e:
        work.board.put_failure(number, e.failure, str(e))
        raise


def _train(
    work: TrialWork, number: int, config: FinetuneConfig, *, report: Report, device: torch.device
) -> dict[str, Any]:
    """Train one trial on this rank; return its last report."""
    began = time.monotonic()
    num_rows = EncodedTable.from_arrow(gang.fetch(work.lesson.train)).num_rows
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
    model = classifier.build(work.lesson, config=config, device=device)
    classifier.train(
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
    predictions, _ = classifier.predict(model, lesson=work.lesson, config=config)
    valid = EncodedTable.from_arrow(gang.fetch(work.lesson.valid))
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
    queue, which Ray's own `TuneReportCallback` writes to, asks for neither.
    """
    slots = work.slots
    run = _TrialRun(
        id=f"{work.job_id}-t{number}",
        attempt=work.attempt,
        settings=load_settings(),
        grant=slots.grant,
    )
    queue = get_session()._get_or_create_inter_actor_queue()
    returned: dict[str, Any] = gang.train(
        run, _gang_worker, work={"work": work, "number": number, "config": config, "queue": queue}
    )
    return returned


def _gang_worker(given: dict[str, Any]) -> dict[str, Any]:
    gang.set_threads(given["grant"], workers_on_node=ray.train.get_context().get_local_world_size())
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
