"""What we use of Ray that is not public. `tests/runs/test_ray_internals.py` fails first when Ray changes it.

Read in ray 2.60.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.train._internal.session import get_session
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.tune.schedulers import TrialScheduler
from ray.util.queue import Queue


class Trainer(TorchTrainer):
    """A `TorchTrainer` that starts no `PlacementGroupCleaner`.

    Ray Train starts that actor, detached and with 200 MB, beside each controller. It asks once a second
    whether the controller lives and, where it does not, removes the placement group and exits. But it asks
    whichever Ray it finds on the head's machine (`get_actor` without an address): where several run there, it
    fails at the first question and stays for ever, or finds no such actor in another Ray and removes the
    placement group of workers that train.

    Without it Ray removes the placement group when the job ends, whichever way. Whoever ends a controller
    before that removes the placement group too: see `bertjobs.runs.tune.ray_tune`.

    Source: ray/train/v2/_internal/execution/controller/placement_group_cleaner.py, `_monitor_loop`;
    ray/train/v2/_internal/state/util.py, `is_actor_alive`; ray/_private/services.py,
    `canonicalize_bootstrap_address_or_die`.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks = super()._create_default_callbacks()
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


def reports_of_trial() -> Queue:
    """Return the queue from which Tune takes the reports of the trial that runs in this actor.

    Ray's own `TuneReportCallback` writes into it too.
    """
    queue: Queue = _session_of_trial()._get_or_create_inter_actor_queue()
    return queue


def _session_of_trial() -> Any:
    session = get_session()
    assert session is not None, "called outside a Tune actor"
    return session


@dataclass(frozen=True)
class _EndedTrial:
    """What a scheduler of Tune reads of a trial: its id, and nothing else."""

    trial_id: str


def replay_results(scheduler: TrialScheduler, *, trial_id: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Give a new scheduler the results of a trial that ended before this search was started.

    Schedulers are called with Tune's controller and its own trials; they use neither but for `trial_id`.
    """
    controller: Any = None
    trial: Any = _EndedTrial(trial_id)
    scheduler.on_trial_add(controller, trial)
    for result in results:
        scheduler.on_trial_result(controller, trial, dict(result))
