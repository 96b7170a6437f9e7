"""Judging more often than once an epoch: where it is done, what is kept, and what a search stops by."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

from bertjobs.training.metrics import metrics_of


def test_it_is_evaluated_every_n_steps_and_at_the_end_of_an_epoch(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.make_config(epochs=2, eval_steps=4)
    result, _, hooks = tiny.run_finetune(tmp_path, config)
    steps_per_epoch = result.num_steps // 2
    expected = sorted({*range(4, result.num_steps + 1, 4), steps_per_epoch, result.num_steps})
    assert len(expected) > 4
    assert [epoch.step for epoch in hooks.epochs] == expected
    assert [int(name.removeprefix("step-")) for name in hooks.published] == expected
    best = max(hooks.epochs, key=lambda epoch: epoch.metrics.accuracy)  # the first of equals
    assert (result.best_step, result.metrics) == (best.step, best.metrics)


def test_judging_more_often_changes_no_step(tiny: ModuleType, tmp_path: Path) -> None:
    _, _, often = tiny.run_finetune(tmp_path / "often", tiny.make_config(epochs=2, eval_steps=3))
    _, _, seldom = tiny.run_finetune(tmp_path / "seldom", tiny.make_config(epochs=2))
    assert tiny.losses_of(often) == tiny.losses_of(seldom)


def test_a_loss_counts_negative_so_that_higher_is_better() -> None:
    metrics = metrics_of(torch.eye(3, dtype=torch.int64)[None].numpy(), loss_sum=6.0, labels=("a", "b", "c"))
    assert metrics.value_of("loss") == -2.0
    assert metrics.value_of("accuracy") == 1.0
    with pytest.raises(KeyError):
        metrics.value_of("bleu")
