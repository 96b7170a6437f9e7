"""The cluster of docker/compose.yaml in real containers: two users, and what is killed under a job.

The tests share one cluster and follow one another.
"""

import json
from pathlib import Path

import pytest
from container_cluster import PROJECT
from images import ROOT, base_images

from waiting import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(1800)]

ACROSS = ["--preset", "demo", "--precision", "fp32", "--workers", "2", "--checkpoint-steps", "20"]


@pytest.fixture(scope="session")
def data(ada, ben) -> str:
    """Return the sample, in a folder of each user that no container of the cluster has."""
    for person in (ada, ben):
        person.run("data", "sample", "sample")
    return "sample/snli_1.0"


def test_an_image_has_one_version_of_each_package(engine, images):
    listing = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
    for target in images:
        image = f"bertjobs-{target}:0.1.0"
        names = engine.docker("run", "--rm", "--entrypoint", "python", image, "-c", listing).split()
        assert sorted(set(names)) == names
    checked = engine.docker("run", "--rm", "--entrypoint", "python", image, "-m", "pip", "check")
    assert checked == "No broken requirements found.\n"


def test_the_launcher_can_copy_files_into_the_image(engine, images):
    assert "rsync  version" in engine.docker("run", "--rm", "bertjobs-ray:0.1.0", "rsync", "--version")


def test_the_doctor_finds_the_cluster_well_from_the_machine_and_from_another(ada, ben):
    for person in (ada, ben):
        found = {check["name"]: check for check in person.json("doctor")["checks"]}
        assert {name: check["verdict"] for name, check in found.items()} == dict.fromkeys(found, "ok"), found
        assert found["ray nodes"]["found"].startswith("3 nodes, ")


def test_shared_memory_holds_the_object_store_and_each_cpu_is_counted_once(cluster):
    ask = "import json, ray; ray.init('auto', log_to_driver=False); print('>' + json.dumps(ray.nodes()))"
    said = cluster.run_in(cluster.name_of("ray-head"), "python", "-W", "ignore", "-c", ask)
    nodes = json.loads(said.rpartition(">")[2])
    stores = [node["Resources"]["object_store_memory"] for node in nodes]
    assert len(nodes) == 3 and stores == [1.5e9] * 3
    cpus = [node["Resources"].get("CPU", 0) for node in nodes]
    num_present = int(cluster.run_in(cluster.name_of("redis"), "nproc"))
    assert sorted(cpus) == [0, *[max(1, num_present // 2)] * 2]
    assert not any("GPU" in node["Resources"] for node in nodes)
    for service, number in (("ray-head", 0), ("ray-worker", 0), ("ray-worker", 1)):
        name = cluster.name_of(service, number)
        size = cluster.run_in(name, "df", "--block-size=1", "--output=size", "/dev/shm").split()[1]
        assert int(size) >= max(stores)
        assert "/tmp" not in cluster.run_in(name, "sh", "-c", "pgrep -a plasma || true")
        assert "object store is using /tmp" not in cluster.engine.docker("logs", name)


def test_both_users_submit_and_neither_needs_what_the_other_made(ada, ben, data):
    """The second sends the same files, then others, into a storage that the first has written to."""
    first = ada.run("submit", "finetune", *ACROSS, "--data", data, "--epochs", "1")
    second = ben.run("submit", "finetune", *ACROSS, "--data", data, "--epochs", "1")
    texts = ben.home / "lines.txt"
    texts.write_text("a cat sits\na dog runs\n")
    third = ben.run("submit", "encode", "--model", second, "--data", "lines.txt")
    for person, job in ((ada, first), (ben, second), (ben, third)):
        ended = person.wait_for(job, lambda status: status["ended_at"] is not None)
        assert ended["state"] == "SUCCEEDED", person.type("logs", job).stdout


def leading_container(cluster, person) -> str:
    """Return the name of the container whose dispatcher leads."""
    (check,) = [c for c in person.json("doctor", "--quick")["checks"] if c["name"] == "dispatcher"]
    host = check["found"].split()[0]  # of a container: the beginning of its id
    (found,) = [c for c in cluster.containers("dispatcher") if c["Id"].startswith(host)]
    return str(found["Name"]).lstrip("/")


def test_a_job_ends_with_one_result_though_everything_is_killed_under_it(cluster, ada, data):
    job = ada.run("submit", "finetune", *ACROSS, "--data", data, "--epochs", "60")

    def trains(attempt: int, step: int):
        def holds(status) -> bool:
            is_running = status["state"] == "RUNNING" and status["attempts"] == attempt
            return is_running and (status["progress"] or {}).get("step", 0) > step

        return holds

    seen = ada.wait_for(job, trains(1, 5))
    cluster.kill("dispatcher", leading_container(cluster, ada))
    cluster.kill("redis")
    seen = ada.wait_for(job, trains(1, seen["progress"]["step"] + 5))

    for found in cluster.containers("ray-worker"):  # both: the gang may be on either
        cluster.kill("ray-worker", found["Name"].lstrip("/"))
    seen = ada.wait_for(job, trains(2, seen["progress"]["step"] - 20))

    cluster.kill("ray-head")
    ended = ada.wait_for(job, lambda status: status["ended_at"] is not None)
    assert ended["state"] == "SUCCEEDED", ada.type("logs", job).stdout
    assert ended["attempts"] == 3
    models = [path.name for path in (cluster.storage / job).glob("model-*")]
    assert models == ["model-a3"] and ended["artifacts"]["model"].endswith("model-a3")
    assert json.loads((cluster.storage / job / "metrics.json").read_text()) == ended["metrics"]


def test_a_queue_that_is_restarted_three_times_loses_no_job(cluster, ada, data):
    waiting = [ada.run("submit", "finetune", *ACROSS, "--data", data, "--hold") for _ in range(3)]
    before = ada.json("list", "--all")
    cluster.restart("redis")
    cluster.kill("redis")
    cluster.wait_until_healthy()
    cluster.restart("redis")
    cluster.wait_until_healthy()
    states = {job["id"]: job["state"] for job in ada.json("list", "--all")}
    assert states == {job["id"]: job["state"] for job in before}
    assert {states[job] for job in waiting} == {"HELD"}
    for job in waiting:
        ada.run("cancel", job)


def test_prometheus_has_the_rules_and_reaches_every_target(cluster):
    def ask(what: str) -> dict:
        words = f"run --rm --network {PROJECT}_default --entrypoint python bertjobs-control:0.1.0 -c".split()
        code = f"import urllib.request as u; print(u.urlopen('http://prometheus:9090/api/v1/{what}').read().decode())"
        return json.loads(cluster.engine.docker(*words, code))["data"]

    rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) >= 8 and {rule["health"] for rule in rules} == {"ok"}
    targets = {target["scrapeUrl"]: target["health"] for target in ask("targets")["activeTargets"]}
    assert len(targets) == 5 and set(targets.values()) == {"up"}, targets


def test_alerts_fire_and_say_where_to_look(cluster, engine):
    """Given series, by Prometheus' own tool: three alerts in the state that they are made for."""
    mounts = [f"--volume={ROOT}/cluster/prometheus:/rules:ro"]
    mounts += [f"--volume={Path(__file__).with_name('alerts.yaml')}:/tests/alerts.yaml:ro"]
    image = base_images()["prometheus"]
    words = ["run", "--rm", "--entrypoint", "promtool", *mounts, image]
    assert "SUCCESS" in engine.docker(*words, "test", "rules", "/tests/alerts.yaml")
    assert "SUCCESS" in engine.docker(*words, "check", "rules", "/rules/rules.yaml")


def test_an_alert_reaches_the_receiver(cluster, engine):
    """A stand-in under the receiver's example name prints what it is sent."""
    listen = (
        "import http.server as h\n"
        "class Hears(h.BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        print(self.rfile.read(int(self.headers['Content-Length'])).decode(), flush=True)\n"
        "        self.send_response(200); self.end_headers()\n"
        "h.HTTPServer(('', 80), Hears).serve_forever()\n"
    )
    network = ["--network", f"{PROJECT}_default", "--network-alias", "alerts.example.org"]
    words = ["run", "--detach", "--rm", "--user", "0", *network, "--entrypoint", "python"]
    receiver = engine.docker(*words, "bertjobs-control:0.1.0", "-c", listen).strip()
    try:
        alert = json.dumps([{"labels": {"alertname": "Test", "severity": "critical"}}])
        send = (
            "import sys, urllib.request as u; u.urlopen(u.Request('http://alertmanager:9093/api/v2/alerts', "
            "data=sys.argv[1].encode(), headers={'Content-Type': 'application/json'}))"
        )
        client = ["run", "--rm", "--network", f"{PROJECT}_default", "--entrypoint", "python"]
        engine.docker(*client, "bertjobs-control:0.1.0", "-c", send, alert)

        def received() -> list[str]:
            told = [json.loads(line) for line in engine.docker("logs", receiver).split("\n") if line]
            return [alert["labels"]["alertname"] for message in told for alert in message["alerts"]]

        wait_until(received, lambda names: "Test" in names, interval_s=1.0)
    finally:
        engine.docker("rm", "--force", receiver)


def test_nothing_restarts_over_and_over(cluster):
    """What was killed came back once; workers, which need the head, try until it is there."""
    cluster.wait_until_healthy()
    found = cluster.restarts()  # since the last orderly restart
    for service in ("redis", "dispatcher", "ray-head"):
        assert found[service] <= cluster.kills.get(service, 0), cluster.logs()
