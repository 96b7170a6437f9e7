"""What the end-to-end tests call left behind."""

from ray_leftovers import Leftover, Process, leftovers

ENDED = {"submission_id": "bj-j1-a1", "job_id": "01", "status": "STOPPED"}


def actor(class_name: str, *, job_id: str = "01", state: str = "ALIVE", is_detached: bool = False):
    return {
        "class_name": class_name, "job_id": job_id, "state": state, "pid": 7, "is_detached": is_detached,
    }  # fmt: skip


def found(*, ray_jobs=(ENDED,), actors=(), placement_groups=(), processes=(), live=()) -> list[Leftover]:
    return leftovers(
        ray_jobs=ray_jobs, actors=actors, placement_groups=placement_groups, processes=processes, live=live
    )


def test_a_detached_actor_of_an_ended_job_is_never_going_to_end():
    (left,) = found(actors=[actor("PlacementGroupCleaner", is_detached=True)])
    assert left.never_ends
    assert left.what == ("the detached actor PlacementGroupCleaner, which is ALIVE as process 7, of bj-j1-a1")


def test_what_ray_is_about_to_end_is_left_for_now():
    ray_jobs = [ENDED | {"status": "RUNNING"}]
    group = {"creator_job_id": "01", "state": "CREATED", "bundles": [{"CPU": 1}]}
    left = found(
        ray_jobs=ray_jobs, actors=[actor("RayTrainWorker", is_detached=True)], placement_groups=[group],
        processes=[
            Process(pid=8, title="ray::RayTrainWorker", ray_job="01"),
            Process(pid=9, title="python -m bertjobs.runs.driver j1 1 1", ray_job=""),
        ],
    )  # fmt: skip
    assert [one.never_ends for one in left] == [False] * 5
    assert [one.what for one in left] == [
        "the Ray Job bj-j1-a1, which is RUNNING",
        "the detached actor RayTrainWorker, which is ALIVE as process 7, of bj-j1-a1",
        "a placement group of [{'CPU': 1}], which is CREATED, of bj-j1-a1",
        "process 8, 'ray::RayTrainWorker'",
        "process 9, 'python -m bertjobs.runs.driver j1 1 1'",
    ]


def test_what_is_dead_or_of_a_live_job_or_of_all_jobs_is_not_left():
    other = {"submission_id": "bj-j2-a3", "job_id": "02", "status": "RUNNING"}
    assert not found(
        ray_jobs=[ENDED, other],
        actors=[actor("A", state="DEAD"), actor("A", job_id="02"), actor("_StatsActor", is_detached=True)],
        placement_groups=[{"creator_job_id": "01", "state": "REMOVED", "bundles": []}],
        processes=[
            Process(pid=7, title="ray::_StatsActor", ray_job="01"),
            Process(pid=8, title="ray::A", ray_job="02"),
            Process(pid=9, title="python -m bertjobs.jobs.dispatcher", ray_job=""),
        ],
        live=["j2"],
    )


def test_an_attempt_that_never_came_to_ray_leaves_nothing():
    assert not found(ray_jobs=[ENDED | {"job_id": None}], actors=[actor("A")])


def test_a_driver_that_never_came_to_ray_is_left_while_its_process_lives():
    driver = Process(pid=9, title="python -m bertjobs.runs.driver j1 1 1", ray_job="")
    (left,) = found(ray_jobs=[ENDED | {"job_id": None}], processes=[driver])
    assert left.what == "process 9, 'python -m bertjobs.runs.driver j1 1 1'"
