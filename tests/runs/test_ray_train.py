"""What Ray Train raises, told apart: our own errors, the training code's, and workers that were killed."""

import pytest
import ray.train
from ray.exceptions import ActorDiedError

from bertjobs.errors import DataError, TrainingError
from bertjobs.runs.ray_train import WorkerLost, _cause_of


def group_error(failures: dict[int, Exception]) -> ray.train.WorkerGroupError:
    return ray.train.WorkerGroupError("[Rank 0 Error Snippet]: ...", failures)


def test_an_error_of_ours_is_handed_on_as_it_is():
    ours = DataError("a row is broken", hint="mend it")
    assert _cause_of(group_error({0: RuntimeError("gloo: peer"), 1: ours})) is ours


def test_an_exception_of_the_training_code_is_the_jobs_own_fault():
    found = _cause_of(group_error({0: ZeroDivisionError("division by zero")}))
    assert type(found) is TrainingError
    assert str(found) == "The training code raised ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    "failures",
    [
        {0: ActorDiedError()},
        {0: RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711")},
        {0: RuntimeError("NCCL communicator was aborted on rank 0"), 1: ActorDiedError()},
    ],
)
def test_a_killed_worker_is_lost_whichever_rank_noticed(failures):
    assert type(_cause_of(group_error(failures))) is WorkerLost


def test_a_controller_that_gave_up_is_the_clusters_fault():
    assert type(_cause_of(ray.train.ControllerError(ActorDiedError()))) is WorkerLost
