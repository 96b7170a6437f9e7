"""What a trial says while it goes, when it is stopped, and what a stopper is told after a fault."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjobs.config import ConfigLayer, load_config
from bertjobs.config.finetune import TrainSection
from bertjobs.config.sections import TextSection
from bertjobs.errors import TrainingError
from bertjobs.runs.reporting import TrainingHooks
from bertjobs.runs.tune.schedulers import Course, replay, stopper_for
from bertjobs.runs.tune.trial_records import Evaluation, Trial
from bertjobs.runs.tune.trial_resources import Slots
from bertjobs.runs.tune.trial_worker import LATEST, TrialHooks, TrialWork, count_correct, cut_ratio, run_trial
from bertjobs.storage import JobDir
from bertjobs.text.encoding import EncodedTable
from bertjobs.training.batches import make_plan
from bertjobs.training.metrics import metrics_of
from bertjobs.training.progress import EpochResult, Progress


class Board:
    """A board that only remembers."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []
        self.failures: dict[int, tuple[str, str]] = {}

    def put_failure(self, number: int, word: str, message: str) -> None:
        self.failures[number] = (word, message)

    def put_progress(self, number: int, values: dict[str, Any]) -> None:
        self.notes.append({"number": number, **values})


class Reporter:
    """Whom a run reports to; it only counts."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def progress(self, values: dict[str, Any]) -> None:
        self.steps.append(values["step"])

    def log_metrics(self, values: dict[str, Any]) -> None:
        pass


PLAN = make_plan(100, train=TrainSection(batch_size=30, epochs=2))  # 4 steps an epoch


def hooks_in(
    folder: Path, reports: list[dict[str, Any]], board: Any, *, metric: str = "accuracy"
) -> TrialHooks:
    job_dir = JobDir(str(folder), "3")
    return TrialHooks(3, metric=metric, plan=PLAN, folder=job_dir, board=board, report=reports.append)


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
    hooks = hooks_in(tmp_path, reports, Board())
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
    assert Evaluation(**last["history"][0]).epoch == 1.0


def test_what_ends_a_trial_is_on_the_board_before_its_actor_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board()
    slots = Slots(num_concurrent=1, workers_per_trial=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1)
    shared: dict[str, Any] = {"lesson": None, "metric": "accuracy", "job_id": "j-1", "attempt": 1}
    work = TrialWork(
        **shared, job_dir=JobDir(str(tmp_path), "j-1"), board=board, slots=slots, counts_lengths=False  # type: ignore[arg-type]
    )  # fmt: skip

    def diverge(*_: Any, **__: Any) -> None:
        raise TrainingError("At step 3 of 9 the loss is nan.", hint="Try a lower --lr.")

    monkeypatch.setattr("bertjobs.runs.tune.trial_worker._train", diverge)
    with pytest.raises(TrainingError):
        run_trial({"number": 3, "config": load_config("finetune").model_dump(mode="json")}, work=work)
    assert board.failures == {3: ("TrainingError", "At step 3 of 9 the loss is nan. Try a lower --lr.")}


def test_a_loss_counts_negative(tmp_path: Path) -> None:
    hooks = hooks_in(tmp_path, [], Board(), metric="loss")
    hooks.on_epoch(epoch_result(4, right=4))
    assert hooks.summary()["value"] == -0.5


def test_a_trial_goes_on_from_the_checkpoint_that_is_whole_with_its_history(tmp_path: Path) -> None:
    folder = JobDir(str(tmp_path), "3")
    hooks = hooks_in(tmp_path, [], Board())
    assert hooks.take_up() is None
    folder.write_json(LATEST, {"name": "step-00000004", "step": 4})
    assert hooks.take_up() is None  # the folder was removed: from the beginning
    folder.write_bytes("checkpoints/step-00000004/state.json", b"{}")
    scores = '"accuracy": 0.7, "mcc": 0.1, "f1": 0.2, "loss": 0.5'
    lines = [f'{{"kind": "epoch", "step": {step}, "epoch": 0, {scores}}}' for step in (2, 4, 6)]
    folder.write_bytes("metrics.jsonl", "\n".join(['{"kind": "step", "step": 1}', *lines]).encode())
    assert hooks.take_up() == "step-00000004"
    assert [e.step for e in hooks.history] == [2, 4]  # what came after the checkpoint is done again


def test_progress_comes_a_few_times_a_second_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(i / 100 for i in range(1000))
    monkeypatch.setattr("bertjobs.runs.reporting.time.monotonic", lambda: next(now))
    reporter, board = Reporter(), Board()
    all_hooks: list[Any] = [TrainingHooks(reporter, metric="accuracy"), hooks_in(tmp_path, [], board)]  # type: ignore[arg-type]
    for hooks in all_hooks:
        for step in range(1, 9):
            hooks.on_progress(progress(step))
    assert reporter.steps == [1, 8]
    assert [note["step"] for note in board.notes] == [1, 8]
    assert board.notes[0]["epoch"] == 0.25


@pytest.mark.parametrize("stopper", ["asha", "median"])
def test_a_stopper_knows_the_trials_of_an_earlier_attempt(stopper: str) -> None:
    config = load_config("tune", ConfigLayer({"search.stopper": stopper}, {}, is_given=False))
    course = Course(num_examples=900, grace_examples=100)
    ended = [trial_with(n, 0.5 + n / 10, at=(100, 300)) for n in (1, 2, 3)]
    fresh = stopper_for(config.search, course, ended=(), metric="accuracy")  # type: ignore[attr-defined]
    informed = stopper_for(config.search, course, ended=ended, metric="accuracy")  # type: ignore[attr-defined]
    poor = trial_with(9, 0.1, at=(100,))
    assert decision_on(fresh, poor) == "CONTINUE"
    assert decision_on(informed, poor) == "STOP"
    assert decision_on(informed, trial_with(8, 0.95, at=(100,))) == "CONTINUE"


def test_a_complete_trial_is_never_stopped_at_its_end() -> None:
    config = load_config("tune")
    scheduler = stopper_for(
        config.search, Course(num_examples=900, grace_examples=100), ended=(), metric="accuracy"
    )  # type: ignore[attr-defined]
    for number in (1, 2, 3):
        assert decision_on(scheduler, trial_with(number, 0.9, at=(900,))) == "CONTINUE"
    assert all(milestone < 900 for milestone, _ in scheduler._brackets[0]._rungs)  # type: ignore[attr-defined]


class _Stub:
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def decision_on(scheduler: Any, trial: Trial) -> str:
    stub = _Stub(f"now-{trial.number}")
    scheduler.on_trial_add(None, stub)
    last = trial.history[-1]
    return str(
        scheduler.on_trial_result(None, stub, {"num_examples": last.num_examples, "value": last.accuracy})
    )


def trial_with(number: int, accuracy: float, *, at: tuple[int, ...]) -> Trial:
    history = tuple(
        Evaluation(num_examples=n, step=n, epoch=n / 100, accuracy=accuracy, mcc=0, f1=0, loss=1) for n in at
    )
    return Trial(number=number, values={}, config={}, state="finished", history=history)


def test_replaying_nothing_changes_nothing() -> None:
    replay(None, (), metric="accuracy")


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
    counted = count_correct(rows, probabilities, text=TextSection(max_len=20))
    filled = [
        (c["above"], c["up_to"], c["num_examples"], c["num_correct"]) for c in counted if c["num_examples"]
    ]
    assert filled == [(0.0, 0.75, 1, 1), (0.75, 1.0, 1, 1), (1.0, 1.25, 1, 0), (2.0, None, 1, 1)]
    assert cut_ratio(rows, max_len=20) == 0.5
    assert cut_ratio(rows, max_len=64) == 0.0
