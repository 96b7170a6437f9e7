"""What we use of Ray that is not public: these tests fail first when a new Ray has changed it."""

import inspect

import pytest
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import placement_group_callback
from ray.tune.integration import ray_train as tune_integration
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule

from bertjobs.runs import ray_internals
from bertjobs.runs.ray_internals import Trainer, replay_results, reports_of_trial


def callbacks_of(kind: type[TorchTrainer], tmp_path) -> list[str]:
    trainer = kind(
        lambda config: None,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name="canary", storage_path=str(tmp_path)),
    )
    return [type(callback).__name__ for callback in trainer._create_default_callbacks()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data")
def test_training_starts_all_of_ray_trains_helpers_but_its_cleaner(tmp_path):
    rays, ours = callbacks_of(TorchTrainer, tmp_path), callbacks_of(Trainer, tmp_path)
    assert rays.count("PlacementGroupCleanerCallback") == 1
    assert ours == [name for name in rays if name != "PlacementGroupCleanerCallback"]


def test_ray_train_still_starts_the_cleaner_that_is_left_out():
    """It is detached, and asks for its controller without saying in which Ray: see `Trainer`."""
    assert 'lifetime="detached"' in inspect.getsource(placement_group_callback)
    asks = inspect.getsource(placement_group_callback.PlacementGroupCleaner._monitor_loop)
    assert "is_actor_alive(" in asks and "address" not in asks


def test_the_queue_of_a_trial_is_the_one_that_rays_own_callback_writes_to(monkeypatch):
    class Session:
        def _get_or_create_inter_actor_queue(self) -> str:
            return "the queue"

    assert "get_session()._get_or_create_inter_actor_queue()" in inspect.getsource(tune_integration)
    assert tune_integration.get_session is ray_internals.get_session
    monkeypatch.setattr(ray_internals, "get_session", Session)
    assert reports_of_trial() == "the queue"


def test_reports_are_taken_in_a_tune_actor_only():
    with pytest.raises(AssertionError, match="outside a Tune actor"):
        reports_of_trial()


@pytest.mark.parametrize("kind", [AsyncHyperBandScheduler, MedianStoppingRule, FIFOScheduler])
def test_a_scheduler_of_tune_reads_only_the_id_of_a_trial(kind):
    """It is given neither Tune's controller nor one of Tune's trials: see `replay_results`."""
    given = {} if kind is FIFOScheduler else {"time_attr": "num_examples", "metric": "value", "mode": "max"}
    results = [{"num_examples": n, "value": 0.5} for n in (1, 2, 4)]
    replay_results(kind(**given), trial_id="before-1", results=results)
