"""What a trial reports, from where it resumes, and which answers are counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjobs.config import load_config
from bertjobs.config.finetune import TrainSection
from bertjobs.config.sections import TextSection
from bertjobs.errors import TrainingError
from bertjobs.runs.tune.trial_records import TrialEvaluation
from bertjobs.runs.tune.trial_resources import TrialResources
from bertjobs.runs.tune.trial_worker import LATEST, TrialHooks, TrialWork, count_correct, cut_ratio, run_trial
from bertjobs.storage import JobDir
from bertjobs.text.encoding import EncodedTable
from bertjobs.training.batches import make_batch_sampler
from bertjobs.training.metrics import metrics_of
from bertjobs.training.monitoring.progress import EpochResult, Progress


class Actor:
    """Stands in for the progress actor."""

    def __init__(self) -> None:
        self.progress: list[dict[str, Any]] = []
        self.failures: dict[int, tuple[str, str]] = {}

    def set_failure(self, number: int, word: str, message: str) -> None:
        self.failures[number] = (word, message)

    def set_progress(self, number: int, values: dict[str, Any]) -> None:
        self.progress.append({"number": number, **values})


PLAN = make_batch_sampler(100, train=TrainSection(batch_size=30, epochs=2))  # 4 steps an epoch


def hooks_in(
    folder: Path, reports: list[dict[str, Any]], actor: Any, *, metric: str = "accuracy"
) -> TrialHooks:
    job_dir = JobDir(str(folder), "3")
    return TrialHooks(3, metric=metric, plan=PLAN, folder=job_dir, progress=actor, report=reports.append)


def epoch_result(step: int, *, right: int) -> EpochResult:
    counts = np.array([[[right, 10 - right], [0, 10]]])
    metrics = metrics_of(counts, loss_sum=20.0 * 0.5, labels=("no", "yes"))
    return EpochResult(epoch=0, step=step, metrics=metrics, is_best=True)


def progress(step: int) -> Progress:
    return Progress(
        step=step, num_steps=8, epoch=0, loss=1.0, lr=1e-4, grad_norm=1.0,
        examples_per_s=9.0, tokens_per_s=9.0, eta_s=1.0,
    )  # fmt: skip


def test_an_evaluation_is_reported_with_its_checkpoint_and_the_last_one_is_returned(tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    hooks = hooks_in(tmp_path, reports, Actor())
    hooks.on_epoch(epoch_result(4, right=4))
    assert reports == []
    hooks.publish_checkpoint("step-00000004", 4)
    assert [(r["num_examples"], r["value"], len(r["history"])) for r in reports] == [(100, 0.7, 1)]
    hooks.publish_checkpoint("step-00000006", 6)  # between two evaluations
    hooks.on_epoch(epoch_result(8, right=6))
    hooks.publish_checkpoint("step-00000008", 8)
    assert len(reports) == 1
    last = hooks.summary()
    assert (last["num_examples"], last["value"], len(last["history"])) == (200, 0.8, 2)
    assert TrialEvaluation.from_json(last["history"][0]).epoch == 1.0


def test_what_ends_a_trial_is_recorded_before_its_actor_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = Actor()
    resources = TrialResources(
        num_concurrent=1, workers_per_trial=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1
    )
    shared: dict[str, Any] = {"inputs": None, "metric": "accuracy", "job_id": "j-1", "attempt": 1}
    work = TrialWork(
        **shared,
        job_dir=JobDir(str(tmp_path), "j-1"),
        progress=actor,  # type: ignore[arg-type]
        resources=resources,
        counts_lengths=False,
    )

    def diverge(*_: Any, **__: Any) -> None:
        raise TrainingError("At step 3 of 9 the loss is nan.", hint="Try a lower --lr.")

    monkeypatch.setattr("bertjobs.runs.tune.trial_worker._train", diverge)
    with pytest.raises(TrainingError):
        run_trial({"number": 3, "trial": load_config("finetune")}, work=work)
    assert actor.failures == {3: ("TrainingError", "At step 3 of 9 the loss is nan. Try a lower --lr.")}


def test_a_loss_counts_negative(tmp_path: Path) -> None:
    hooks = hooks_in(tmp_path, [], Actor(), metric="loss")
    hooks.on_epoch(epoch_result(4, right=4))
    assert hooks.summary()["value"] == -0.5


def test_a_trial_goes_on_from_the_checkpoint_that_is_whole_with_its_history(tmp_path: Path) -> None:
    folder = JobDir(str(tmp_path), "3")
    hooks = hooks_in(tmp_path, [], Actor())
    assert hooks.load_checkpoint() is None
    folder.write_json(LATEST, {"name": "step-00000004", "step": 4})
    assert hooks.load_checkpoint() is None  # the folder was removed: from the beginning
    folder.write_bytes("checkpoints/step-00000004/state.json", b"{}")
    scores = '"accuracy": 0.7, "mcc": 0.1, "f1": 0.2, "loss": 0.5'
    lines = [f'{{"kind": "epoch", "step": {step}, "epoch": 0, {scores}}}' for step in (2, 4, 6)]
    folder.write_bytes("metrics.jsonl", "\n".join(['{"kind": "step", "step": 1}', *lines]).encode())
    assert hooks.load_checkpoint() == "step-00000004"
    assert [e.step for e in hooks.history] == [2, 4]  # what came after the checkpoint is done again


def test_progress_is_sent_a_few_times_a_second_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(i / 100 for i in range(1000))
    monkeypatch.setattr("bertjobs.jobs.driver.throttle.time.monotonic", lambda: next(now))
    actor = Actor()
    hooks = hooks_in(tmp_path, [], actor)
    for step in range(1, 9):
        hooks.on_progress(progress(step))
    assert [values["step"] for values in actor.progress] == [1, 8]
    assert actor.progress[0]["epoch"] == 0.25


def test_the_last_progress_of_a_trial_that_patience_ends_is_sent(tmp_path: Path) -> None:
    actor = Actor()
    hooks = hooks_in(tmp_path, [], actor)
    for step in (1, 2, 3, 4):
        hooks.on_progress(progress(step))
    hooks.on_epoch(epoch_result(4, right=4))
    assert actor.progress[-1]["step"] == 4


def table(lengths: list[tuple[int, int]], labels: list[int]) -> EncodedTable:
    offsets = [
        np.concatenate(([0], np.cumsum([pair[i] for pair in lengths]))).astype(np.int32) for i in (0, 1)
    ]
    ids = [np.zeros(int(o[-1]), dtype=np.uint16) for o in offsets]
    return EncodedTable(
        a_ids=ids[0], a_offsets=offsets[0], b_ids=ids[1], b_offsets=offsets[1],
        labels=np.array(labels, dtype=np.int32), indices=np.arange(len(labels)),
    )  # fmt: skip


def test_correct_answers_are_counted_by_length_in_shares_of_max_len() -> None:
    rows = table([(3, 4), (10, 7), (11, 7), (30, 20)], [0, 1, 1, 0])  # with 3 special tokens: 10, 20, 21, 53
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    counted = count_correct(rows, probabilities.argmax(axis=1) == rows.labels, text=TextSection(max_len=20))
    filled = [
        (c["above"], c["up_to"], c["num_examples"], c["num_correct"]) for c in counted if c["num_examples"]
    ]
    assert filled == [(0.0, 0.75, 1, 1), (0.75, 1.0, 1, 1), (1.0, 1.25, 1, 0), (2.0, None, 1, 1)]
    assert cut_ratio(rows, max_len=20) == 0.5
    assert cut_ratio(rows, max_len=64) == 0.0


def test_a_long_evaluation_of_a_trial_is_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [0.0]
    monkeypatch.setattr("bertjobs.jobs.driver.throttle.time.monotonic", lambda: times[-1])
    hooks, actor = hooks_in(tmp_path, [], actor := Actor()), actor
    hooks.note_activity()
    assert not actor.progress, "there is no step to report yet"
    times.append(20.0)
    hooks.on_progress(progress(4))
    for now_s in (31.0, 32.0, 42.0):  # batches of its evaluation: one report in ten seconds
        times.append(now_s)
        hooks.note_activity()
    assert [(sent["step"], sent.get("num_signs")) for sent in actor.progress] == [(4, None), (4, 2), (4, 4)]
