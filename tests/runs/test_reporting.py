"""What a training worker reports to the queue, and to Ray's metrics agent."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bertjobs.jobs.dispatcher import metrics as names
from bertjobs.runs import reporting
from bertjobs.runs.reporting import TrainingGauges, TrainingHooks
from bertjobs.training.monitoring.progress import EpochResult, Progress

PROGRESS = Progress(
    step=10,
    num_steps=40,
    epoch=0,
    loss=0.5,
    lr=1e-4,
    grad_norm=1.0,
    examples_per_s=64.0,
    tokens_per_s=2000.0,
    eta_s=1.0,
)


@pytest.fixture
def shown(monkeypatch):
    """Stand in for Ray's gauges: (name, labels) -> value."""
    shown = {}

    class Gauge:
        def __init__(self, name, description, tag_keys):
            assert description.endswith(".")
            self.name, self.keys = name, tag_keys

        def set_default_tags(self, tags):
            assert set(tags) == set(self.keys)
            self.tags = tuple(tags[key] for key in self.keys)

        def set(self, value):
            assert isinstance(value, float)
            shown[self.name, *self.tags] = value

    monkeypatch.setattr(reporting, "Gauge", Gauge)
    return shown


def test_each_figure_stands_under_its_name_with_the_job_it_is_of(shown):
    gauges = TrainingGauges(SimpleNamespace(id="j-1", kind="finetune", user="ada", name=""))
    gauges.show(PROGRESS, now_s=100.0, gpu_memory_bytes=None)
    job = ("j-1", "finetune", "ada", "")
    assert shown == {
        ("bertjobs_step", *job): 10.0,
        ("bertjobs_num_steps", *job): 40.0,
        ("bertjobs_loss", *job): 0.5,
        ("bertjobs_examples_per_second", *job): 64.0,
        ("bertjobs_tokens_per_second", *job): 2000.0,
    }, "no time per step from one point, no GPU memory on a CPU"
    gauges.show(replace(PROGRESS, step=14), now_s=102.0, gpu_memory_bytes=1 << 30)
    assert shown["bertjobs_step_seconds", *job] == 0.5
    assert shown["bertjobs_gpu_memory_bytes", *job] == float(1 << 30)
    assert {key[0] for key in shown} == {metric.name for metric in names.TRAINING_METRICS}


class Reporter:
    """Stands in for a session: counts what is sent."""

    def __init__(self):
        self.steps, self.series = [], []

    def progress(self, values):
        self.steps.append(values["step"])

    def log_metrics(self, values):
        self.series.append(values["step"])

    def confirm_lease(self):
        self.series.append("confirmed")

    def publish_checkpoint(self, name, step):
        self.series.append(name)


@pytest.fixture
def hooks(monkeypatch):
    """Hooks at a clock that advances by 10 ms per look."""
    now = iter(i / 100 for i in range(1000))
    monkeypatch.setattr("bertjobs.jobs.driver.throttle.time.monotonic", lambda: next(now))
    return TrainingHooks(Reporter(), metric="accuracy", device=torch.device("cpu"))


def test_every_step_is_passed_to_the_reporter_and_the_series_is_limited(hooks):
    for step in range(1, 41):
        hooks.on_progress(replace(PROGRESS, step=step))
    assert hooks._reporter.steps == list(range(1, 41)), "the reporter keeps the last one"
    assert hooks._reporter.series == [1, 40]


def test_the_series_is_complete_before_an_evaluation_and_a_checkpoint(hooks):
    for step in (1, 2, 3):
        hooks.on_progress(replace(PROGRESS, step=step))
    metrics = SimpleNamespace(loss=0.5, value_of=lambda _: 0.75)
    hooks.on_epoch(EpochResult(epoch=0, step=3, metrics=metrics, is_best=True))
    hooks.on_progress(replace(PROGRESS, step=4))
    hooks.before_checkpoint()
    hooks.publish_checkpoint("step-00000004", 4)
    assert hooks._reporter.series == [1, 3, 3, "confirmed", 4, "step-00000004"]


def test_a_tracker_gets_every_step_and_the_scores_of_each_evaluation():
    told = []
    tracker = SimpleNamespace(log=lambda step, values: told.append((step, values)))
    reporter = SimpleNamespace(progress=lambda values: None, log_metrics=lambda values: None)
    hooks = TrainingHooks(reporter, metric="accuracy", device=torch.device("cpu"), tracker=tracker)
    hooks.on_progress(PROGRESS)
    scores = SimpleNamespace(
        loss=0.4, curves=lambda: {"loss": 0.4, "accuracy": 0.75}, value_of=lambda metric: 0.75
    )
    hooks.on_epoch(EpochResult(epoch=0, step=10, metrics=scores, is_best=True))
    (step, values), evaluation = told
    assert step == 10
    assert values["train/loss"] == 0.5
    assert {"train/step", "train/num_steps", "train/eta_s"}.isdisjoint(values)
    assert evaluation == (10, {"dev/loss": 0.4, "dev/accuracy": 0.75})
