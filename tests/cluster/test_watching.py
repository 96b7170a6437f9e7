"""Alerts and dashboard: they ask only for series that somebody writes."""

import json
import re
from pathlib import Path

import ray
import yaml
from declarations import CLUSTER, compose, documents

from bertjobs.jobs.dispatcher.metrics import QUEUE_METRICS, RAY_PREFIX, TRAINING_METRICS

FUNCTIONS = "sum max min avg absent rate increase histogram_quantile label_values"
WORDS = {*FUNCTIONS.split(), "by", "le", "and", "or", "unless"}


def rules() -> list[dict[str, object]]:
    (document,) = documents(CLUSTER / "prometheus" / "rules.yaml")
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, object]]:
    dashboard = json.loads((CLUSTER / "grafana" / "dashboards" / "bertjobs.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [str(rule["expr"]) for rule in rules()] + [
        target["expr"] for panel in panels() for target in panel["targets"]
    ]


def written() -> dict[str, set[str]]:
    """Return every series that is scraped, with its labels."""
    found: dict[str, set[str]] = {}
    for prefix, metrics in (("", QUEUE_METRICS), (RAY_PREFIX, TRAINING_METRICS)):
        for metric in metrics:
            suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
            for suffix in suffixes:
                extra = {"le"} if suffix == "_bucket" else set()
                found[f"{prefix}{metric.name}{suffix}"] = set(metric.labels) | extra
    return found | {name: {"ip", "GpuIndex"} for name in of_ray()}


def of_ray() -> set[str]:
    """Return the names of what Ray says of its nodes, from the list in its source."""
    agent = Path(ray.__file__).parent / "dashboard" / "modules" / "reporter" / "reporter_agent.py"
    names = set(re.findall(r'^    "(node_\w+)": Gauge\(', agent.read_text(), flags=re.M))
    assert len(names) > 10
    return {f"ray_{name}" for name in names}


def names_in(expression: str) -> set[str]:
    """Return the series of an expression: its words that are neither functions, labels nor values."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]|\{[^}]*\}|\bby \([^)]*\)', "", expression)
    return set(re.findall(r"[a-zA-Z_]\w*", bare)) - WORDS


def labels_in(expression: str) -> set[str]:
    selected = re.findall(r"(\w+)\s*[=!]~?\s*\"", expression)
    grouped = [
        word for found in re.findall(r"\bby \(([^)]*)\)", expression) for word in re.split(r",\s*", found)
    ]
    return set(selected) | set(grouped)


def test_every_alert_is_sent_to_a_receiver_that_is_there():
    (prometheus,) = documents(CLUSTER / "prometheus" / "prometheus.yaml")
    (manager,) = prometheus["alerting"]["alertmanagers"]
    (target,) = manager["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert f"127.0.0.1:{port}:{port}" in compose()["services"][name]["ports"]
    (config,) = documents(CLUSTER / "prometheus" / "alertmanager.yaml")
    receivers = {receiver["name"] for receiver in config["receivers"]}
    assert {config["route"]["receiver"], *(r["receiver"] for r in config["route"]["routes"])} == receivers
    matched = [word for route in config["route"]["routes"] for word in route["matchers"]]
    severities = {f'severity="{rule["labels"]["severity"]}"' for rule in rules()}
    assert matched == ['severity="critical"'] and set(matched) < severities


def test_an_unknown_series_would_be_noticed():
    assert names_in('sum by (le) (rate(bertjobs_x_bucket{a="bertjobs_y"}[5m])) > 2') == {"bertjobs_x_bucket"}
    assert labels_in('sum by (le, b) (x{a="1", c!~"2"})') == {"le", "b", "a", "c"}
    assert "bertjobs_x_bucket" not in written()


def test_every_series_in_a_query_is_written_and_has_the_labels():
    series = written()
    assert len(expressions()) > 30
    for expression in expressions():
        names = names_in(expression)
        assert names, expression
        assert names <= series.keys(), expression
        assert labels_in(expression) <= set().union(*(series[name] for name in names)), expression


def test_the_alerts_are_there_with_what_to_do():
    found = {rule["alert"]: rule for rule in rules()}
    assert {"BertjobsNoLeader", "BertjobsJobSilent", "BertjobsQueueStuck"} <= found.keys()
    for rule in found.values():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        for name in re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])):
            labels = set().union(*(written()[n] for n in names_in(rule["expr"])))
            assert name in labels | {"instance"}


def test_the_dashboard_draws_every_metric_of_ours():
    drawn = {name for panel in panels() for target in panel["targets"] for name in names_in(target["expr"])}
    bare = {re.sub("_(bucket|sum|count)$", "", name) for name in drawn}
    ours = {m.name for m in QUEUE_METRICS} | {RAY_PREFIX + m.name for m in TRAINING_METRICS}
    assert ours - bare == {"bertjobs_build_info"}


def test_panels_do_not_lie_on_each_other():
    places = [panel["gridPos"] for panel in panels()]
    cells = [
        (x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(p["x"] + p["w"] for p in places) == 24


def test_prometheus_scrapes_services_that_are_there_at_the_ports_they_serve():
    config = yaml.safe_load((CLUSTER / "prometheus" / "prometheus.yaml").read_text())
    services = compose()["services"]
    for job in config["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        for name in found["names"]:
            told = json.dumps([services[name]["command"], services[name]["environment"]])
            assert str(found["port"]) in told
    assert config["rule_files"] == ["/etc/prometheus/rules.yaml"]
    assert "../cluster/prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]
