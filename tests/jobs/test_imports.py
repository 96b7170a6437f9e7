"""What the modules of this room load at their import: an interpreter of its own tells."""

from fresh_interpreter import HEAVY, loaded_by, modules_of

PROMETHEUS = "bertjobs.jobs.dispatcher.prometheus"


def test_no_module_of_the_queue_loads_a_heavy_library_or_redis_at_its_import():
    modules = modules_of("jobs")
    assert len(modules) > 20
    assert loaded_by(modules, among=HEAVY | {"redis"}) == {}


def test_only_the_module_that_serves_metrics_loads_prometheus_client():
    modules = [name for name in modules_of("jobs") if name != PROMETHEUS]
    found = loaded_by([*modules, PROMETHEUS], among=frozenset({"prometheus_client"}))
    assert found == {PROMETHEUS: ["prometheus_client"]}


def test_a_module_that_loads_a_heavy_library_would_be_noticed():
    assert loaded_by(["bertjobs.errors", "numpy"], among=HEAVY) == {"numpy": ["numpy"]}
