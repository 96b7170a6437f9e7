"""The metrics as Prometheus reads them."""

import socket
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import bertjobs
from bertjobs.errors import ConfigError
from bertjobs.jobs.dispatcher import metrics as metric_names
from bertjobs.jobs.dispatcher.attempt_policy import Timeouts
from bertjobs.jobs.dispatcher.loop import Dispatcher
from bertjobs.jobs.dispatcher.prometheus import MetricsServer, QueueMetrics
from bertjobs.jobs.dispatcher.result_reader import ResultReader
from bertjobs.jobs.quotas import QuotaStore
from bertjobs.jobs.retry import Failure, decide
from bertjobs.jobs.scheduling.types import Node
from bertjobs.jobs.store.dispatch_store import DispatchStore

pytestmark = pytest.mark.redis


@pytest.fixture
def metrics(world):
    """Let the world's dispatcher tell of itself."""
    metrics = QueueMetrics(clock=lambda: world.now_s)
    world.dispatcher = Dispatcher(
        DispatchStore(world.connection, owner="observed", lease_s=3600),
        world.ray,
        world.ray,
        env={},
        timeouts=Timeouts(lease_s=15),
        clock=lambda: world.now_s,
        observer=metrics,
        logs=world.logs,
        results=ResultReader(roots=world.roots),
    )
    world.connection.client.delete("bj:leader")
    return metrics


@pytest.fixture
def scrape(metrics):
    """Read what the server answers: (name, labels) -> value."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = MetricsServer(metrics, port=port)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def scrape():
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return {(s.name, *sorted(s.labels.values())): s.value for s in samples}

    yield scrape
    server.close()


def test_jobs_are_counted_by_state_and_reason_with_what_is_granted(world, submit, scrape):
    world.ray.nodes = [Node(id="n1", cpus=16, gpus=2)]
    job_id = submit(resources={"gpus": 1})
    for _ in range(2):
        submit(resources={"gpus": 2})
    submit(resources={"gpus": 8})
    submit(hold=True)
    world.turn()
    found = scrape()
    assert found["bertjobs_leader",] == 1 and found["bertjobs_ray_reachable",] == 1
    assert found["bertjobs_build_info", bertjobs.__version__] == 1
    world.turn()
    found = scrape()
    assert found["bertjobs_jobs", "InsufficientGpus", "QUEUED"] == 2
    assert found["bertjobs_jobs", "ExceedsCluster", "QUEUED"] == 1
    assert found["bertjobs_jobs", "", "HELD"] == 1 and found["bertjobs_jobs", "", "STARTING"] == 1
    assert ("bertjobs_jobs", "", "QUEUED") not in found
    assert (found["bertjobs_gpus_present",], found["bertjobs_gpus_granted",]) == (2, 1)
    assert found["bertjobs_waiting_seconds_count",] == 1
    assert found["bertjobs_pass_seconds_count",] == 2
    assert found["bertjobs_silence_seconds", "ada", "finetune", job_id] == 0
    QuotaStore(world.connection).drain(by="ada")
    world.passes(7)
    assert scrape()["bertjobs_last_pass_age_seconds",] == 7
    world.turn()
    assert scrape()["bertjobs_draining",] == 1


def test_an_attempt_is_counted_once_with_its_failure_and_silence_while_it_lasts(world, submit, scrape):
    job_id = submit()
    world.turn()
    driver = world.driver(job_id)
    driver.report(progress={"step": 1})
    world.turn()
    world.passes(20)
    world.turn()
    assert scrape()["bertjobs_silence_seconds", "ada", "finetune", job_id] >= 20
    failed = decide(Failure(word="DataError", message="no"), num_faults=0, num_charged=0, max_retries=0)
    driver.end(failed, nonce=uuid.uuid4().hex, metrics={}, artifacts={})
    world.ray.ends(f"bj-{job_id}-a1", "FAILED", exit_code=1)
    world.turn(3)
    found = scrape()
    assert found["bertjobs_attempts_total", "DataError", "FAILED"] == 1
    assert not [key for key in found if key[0] == "bertjobs_silence_seconds"]


def test_a_standby_reports_only_that_it_does_not_lead(world, submit, scrape):
    submit()
    world.connection.client.set("bj:leader", "other", px=60_000)
    assert not world.dispatcher.run_pass()
    found = scrape()
    assert found["bertjobs_leader",] == 0
    assert not [key for key in found if key[0] == "bertjobs_jobs"]


def test_a_leader_whose_lease_is_gone_reports_that_it_does_not_lead(world):
    held = [True]
    metrics = QueueMetrics(clock=lambda: world.now_s, holds_lease=lambda: held[0])
    world.dispatcher._observer = metrics
    world.turn()
    assert metrics.registry.get_sample_value("bertjobs_leader") == 1
    held[0] = False  # and no pass has noticed it
    assert metrics.registry.get_sample_value("bertjobs_leader") == 0


def test_the_health_check_fails_when_the_last_pass_is_older_than_a_minute(world, metrics):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = MetricsServer(metrics, port=port)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    address = f"http://127.0.0.1:{port}/health"
    try:
        world.turn()
        world.now_s += 60
        with opener.open(address, timeout=10) as answer:
            assert answer.read() == b"The last pass ended 60 s ago.\n"
        world.now_s += 1
        with pytest.raises(urllib.error.HTTPError, match="503") as raised:
            opener.open(address, timeout=10)
        raised.value.close()
    finally:
        server.close()


def test_a_port_in_use_is_an_error_that_names_the_variable(metrics):
    with socket.socket() as s:
        s.bind(("0.0.0.0", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(ConfigError, match=f"BERTJOBS_METRICS_PORT={port} cannot be opened"):
            MetricsServer(metrics, port=port)


def test_every_metric_is_served_under_its_name(metrics):
    served = {family.name for family in metrics.registry.collect()}  # a counter's family has no `_total`
    named = {metric.name.removesuffix("_total") for metric in metric_names.QUEUE_METRICS}
    assert served == named and len(served) == 16
    assert all(m.name.startswith("bertjobs_") and m.help.endswith(".") for m in metric_names.QUEUE_METRICS)
    assert all(m.labels == metric_names.TRAINING_LABELS for m in metric_names.TRAINING_METRICS)


def test_the_dispatcher_imports_the_library_only_where_there_is_a_port():
    source = Path(bertjobs.__file__).parent / "jobs" / "dispatcher" / "loop.py"
    lines = source.read_text().splitlines()
    (line,) = [line for line in lines if "dispatcher.prometheus" in line]
    assert line.startswith("    "), "inside the function that has looked at the port"
