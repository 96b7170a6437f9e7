"""Whole runs of a very small model on the CPU."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig as TheirConfig
from transformers import BertForSequenceClassification as TheirModel

from bertjobs.config import FinetuneConfig
from bertjobs.errors import ConfigError, LeaseLost, ModelError, OutOfMemory, TrainingError
from bertjobs.storage import JobDir
from bertjobs.training.batches import make_batch_sampler
from bertjobs.training.checkpoints.checkpoint import read_checkpoint
from bertjobs.training.schedule import lr_at


class Killed(Exception):
    """Stands for the end of the process."""


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _assert_same_bits(a: torch.nn.Module, b: torch.nn.Module) -> None:
    theirs = b.state_dict()
    assert [n for n, t in a.state_dict().items() if not torch.equal(t, theirs[n])] == []


def _run_until_killed(tiny: ModuleType, folder: Path, config: FinetuneConfig) -> None:
    """Run two epochs of 9 steps; the end comes when the second checkpoint is written but not published."""

    def die(name: str, step: int) -> None:
        if step == 18:
            raise Killed

    with pytest.raises(Killed):
        tiny.run_finetune(folder, config, hooks=tiny.MemoryHooks(before_publish=die))


def test_it_learns(tiny: ModuleType, tmp_path: Path) -> None:
    model = tiny.make_model(spread=0.2)
    result, _, hooks = tiny.run_finetune(tmp_path, tiny.make_config(epochs=3), num_rows=280, model=model)
    losses = tiny.losses_of(hooks)
    assert len(losses) == result.num_steps == 105
    assert np.mean(losses[:5]) > 1.0
    assert np.mean(losses[-9:]) < 0.3
    assert result.metrics.accuracy > 0.9
    assert result.stopped is None


def test_it_overfits_one_batch(tiny: ModuleType, tmp_path: Path) -> None:
    eight_rows = tiny.make_table(8, seed=1).select(np.arange(8).repeat(60))
    config = tiny.make_config(epochs=1, optim={"lr": 5e-3, "beta2": 0.95})
    model = tiny.make_model(dropout=0.0, spread=0.2)
    _, _, hooks = tiny.run_finetune(tmp_path, config, train=eight_rows, model=model)
    losses = tiny.losses_of(hooks)
    assert len(losses) == 60
    assert losses[0] > 0.9
    assert losses[-1] < 0.02


def test_it_follows_hugging_face_with_torch_step_by_step(tiny: ModuleType, tmp_path: Path) -> None:
    """The same losses as padded batches, `transformers`' BERT, AdamW and clip_grad_norm_."""
    config = tiny.make_config(epochs=2, optim={"weight_decay": 0.1, "max_grad_norm": 0.5})
    model = tiny.make_model(dropout=0.0)
    reference = TheirModel(TheirConfig(**model.config.to_json(architecture="x", labels=tiny.LABELS)))
    reference.load_state_dict(model.state_dict(), strict=True)
    reference.train()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in reference.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in reference.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
    )
    table, plan = tiny.make_table(70, seed=1), make_batch_sampler(70, train=config.train)
    expected = []
    for step in range(plan.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, num_steps=plan.num_steps, optim=config.optim)
        rows = plan.rows_of(step)
        batch = _padded(table, rows)
        loss = F.cross_entropy(reference(**batch).logits, torch.tensor(table.labels[rows].tolist()))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
        expected.append((loss.item(), norm.item()))
    _, _, hooks = tiny.run_finetune(tmp_path, config, model=model)
    assert len(expected) == 18
    np.testing.assert_allclose([(p.loss, p.grad_norm) for p in hooks.progress], expected, rtol=1e-4)


def _padded(table: Any, rows: np.ndarray) -> dict[str, torch.Tensor]:
    ids, segments = [], []
    for row in rows:
        a = table.a_ids[table.a_offsets[row] : table.a_offsets[row + 1]].tolist()
        b = table.b_ids[table.b_offsets[row] : table.b_offsets[row + 1]].tolist()
        ids.append(torch.tensor([1, *a, 2, *b, 2]))
        segments.append(torch.tensor([0] * (len(a) + 2) + [1] * (len(b) + 1)))
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return {
        "input_ids": padded,
        "token_type_ids": torch.nn.utils.rnn.pad_sequence(segments, batch_first=True),
        "attention_mask": (padded != 0).long(),
    }


@pytest.mark.parametrize(
    "split", [{"accumulation": 2}, {"accumulation": 8}, {"microbatch_tokens": 64}, {"accumulation": 64}]
)
def test_splitting_a_batch_changes_nothing_with_dropout_on(
    tiny: ModuleType, tmp_path: Path, split: dict[str, int]
) -> None:
    _, whole_model, whole = tiny.run_finetune(tmp_path / "whole", tiny.make_config(epochs=2))
    _, split_model, parts = tiny.run_finetune(tmp_path / "split", tiny.make_config(epochs=2, **split))
    assert len(tiny.losses_of(whole)) == 18
    np.testing.assert_allclose(tiny.losses_of(parts), tiny.losses_of(whole), rtol=1e-4)
    for name, weight in split_model.state_dict().items():
        if name.endswith("key.bias"):
            continue  # its true gradient is 0: AdamW makes steps of what rounding leaves
        torch.testing.assert_close(weight, whole_model.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_dropout_changes_with_the_seed_and_is_on(tiny: ModuleType, tmp_path: Path) -> None:
    runs = {}
    for name, dropout, seed in (("none", 0.0, 0), ("some", 0.2, 0), ("other", 0.2, 1)):
        config = tiny.make_config(max_steps=1, batch_size=70, seed=seed)
        _, _, hooks = tiny.run_finetune(tmp_path / name, config, model=tiny.make_model(dropout=dropout))
        runs[name] = tiny.losses_of(hooks)[0]
    assert len({round(loss, 6) for loss in runs.values()}) == 3


@pytest.mark.parametrize("num_before", [1, 4, 9, 10, 17, 18])
def test_a_run_killed_after_any_step_ends_as_undisturbed(
    tiny: ModuleType, tmp_path: Path, num_before: int
) -> None:
    config = tiny.make_config(epochs=2, checkpoint_steps=1)
    whole_result, whole, whole_hooks = tiny.run_finetune(tmp_path / "whole", config)

    def kill(name: str, step: int) -> None:
        if step == num_before + 1:
            raise Killed

    hooks = tiny.MemoryHooks(before_publish=kill)
    if num_before < 18:
        with pytest.raises(Killed):
            tiny.run_finetune(tmp_path / "parts", config, hooks=hooks)
    else:
        tiny.run_finetune(tmp_path / "parts", config, hooks=hooks)
    assert hooks.published[-1] == f"step-{num_before:08d}"
    # New weights from another seed: everything must come from the checkpoint.
    result, model, hooks = tiny.run_finetune(
        tmp_path / "parts", config, resume=hooks.published[-1], model=tiny.make_model(seed=9)
    )
    assert result == whole_result
    assert tiny.losses_of(hooks) == tiny.losses_of(whole_hooks)[num_before:]
    _assert_same_bits(model, whole)


def test_ten_steps_and_ten_more_are_twenty_to_the_last_bit(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.make_config(max_steps=20)
    _, whole, _ = tiny.run_finetune(tmp_path / "whole", config)
    asked = tiny.MemoryHooks(stop_after=9)
    first, _, _ = tiny.run_finetune(tmp_path / "parts", config, hooks=asked)
    assert (first.num_steps, first.stopped) == (10, "asked to")
    assert asked.published == ["step-00000009", "step-00000010"]
    second, model, hooks = tiny.run_finetune(tmp_path / "parts", config, resume="step-00000010")
    assert (second.num_steps, second.stopped, len(hooks.progress)) == (20, None, 10)
    _assert_same_bits(model, whole)


def test_a_checkpoint_written_but_not_published_is_replaced(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.make_config(epochs=2)
    _run_until_killed(tiny, tmp_path, config)
    folder = tmp_path / "j-test" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000009", "step-00000018"]
    (folder / "step-00000018" / "model.safetensors").write_bytes(b"a torn file")
    tiny.run_finetune(tmp_path, config, resume="step-00000009")
    assert read_checkpoint(folder / "step-00000018").state["num_done"] == 18


def test_a_lost_lease_ends_the_run_and_removes_nothing(tiny: ModuleType, tmp_path: Path) -> None:
    def lose(name: str, step: int) -> None:
        if step == 12:
            raise LeaseLost("attempt 2 owns the job")

    with pytest.raises(LeaseLost):
        tiny.run_finetune(
            tmp_path, tiny.make_config(checkpoint_steps=4), hooks=tiny.MemoryHooks(before_publish=lose)
        )
    assert "step-00000009" in JobDir(str(tmp_path), "j-test").list("checkpoints")


def test_a_run_that_may_not_write_leaves_no_file(tiny: ModuleType, tmp_path: Path) -> None:
    def refuse() -> None:
        raise LeaseLost("another attempt owns the job")

    with pytest.raises(LeaseLost):
        tiny.run_finetune(tmp_path, tiny.make_config(), hooks=tiny.MemoryHooks(before_write=refuse))
    job_dir = JobDir(str(tmp_path), "j-test")
    assert not job_dir.list("checkpoints") and not job_dir.exists("metrics.jsonl")


def test_the_newest_and_the_best_checkpoint_are_kept(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.make_config(epochs=6, checkpoint_steps=4, optim={"lr": 1e-2})
    result, model, hooks = tiny.run_finetune(tmp_path, config)
    scores = [epoch.metrics.accuracy for epoch in hooks.epochs]
    assert len(scores) == 6
    assert result.best_step == 9 * (scores.index(max(scores)) + 1)
    assert result.metrics == hooks.epochs[scores.index(max(scores))].metrics
    kept = JobDir(str(tmp_path), "j-test").list("checkpoints")
    assert hooks.published[-2:] == ["step-00000052", "step-00000054"]
    assert kept == sorted({f"step-{result.best_step:08d}", "step-00000052", "step-00000054"})
    best = read_checkpoint(tmp_path / "j-test" / "checkpoints" / f"step-{result.best_step:08d}").model
    assert all(torch.equal(tensor, best[name]) for name, tensor in model.state_dict().items())


def test_the_best_weights_are_brought_back(tiny: ModuleType, tmp_path: Path) -> None:
    """A rate that wrecks the model after a good first epoch: the best is not the last."""
    config = tiny.make_config(
        epochs=3, batch_size=4, optim={"lr": 1e-2, "schedule": "constant", "max_grad_norm": 0.0, "beta2": 0.0}
    )
    result, model, hooks = tiny.run_finetune(tmp_path, config, num_rows=280, metric="f1")
    scores = [epoch.metrics.f1 for epoch in hooks.epochs]
    assert result.best_step == 70 * (scores.index(max(scores)) + 1)
    kept = JobDir(str(tmp_path), "j-test").list("checkpoints")
    assert f"step-{result.best_step:08d}" in kept
    best = read_checkpoint(tmp_path / "j-test" / "checkpoints" / f"step-{result.best_step:08d}").model
    assert all(torch.equal(tensor, best[name]) for name, tensor in model.state_dict().items())


def test_early_stopping_ends_the_run_and_a_resume_does_not_revive_it(
    tiny: ModuleType, tmp_path: Path
) -> None:
    config = tiny.make_config(epochs=50, patience=2, optim={"lr": 1e-9})  # nothing improves
    result, model, hooks = tiny.run_finetune(tmp_path, config)
    assert (result.stopped, result.num_steps, result.best_step) == ("early stopping", 27, 9)
    assert [epoch.is_best for epoch in hooks.epochs] == [True, False, False]
    again, resumed, hooks = tiny.run_finetune(tmp_path, config, resume="step-00000027")
    assert again == result
    assert hooks.progress == []
    _assert_same_bits(resumed, model)


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_do(tiny: ModuleType, tmp_path: Path) -> None:
    model = tiny.make_model()
    model.classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"At step 1 of 9 the loss is nan .* Try a lower --lr"):
        tiny.run_finetune(tmp_path, tiny.make_config(epochs=1), model=model)
    assert JobDir(str(tmp_path), "j-test").list("checkpoints") == []


def test_a_checkpoint_of_another_run_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run_finetune(tmp_path, tiny.make_config(epochs=1))
    with pytest.raises(ModelError, match="belongs to another run: its seed is 0, this run's is 1"):
        tiny.run_finetune(tmp_path, tiny.make_config(epochs=1, seed=1), resume="step-00000009")


def test_a_checkpoint_cut_short_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run_finetune(tmp_path, tiny.make_config(epochs=1))
    path = tmp_path / "j-test" / "checkpoints" / "step-00000009" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"optimizer.safetensors was cut short"):
        tiny.run_finetune(tmp_path, tiny.make_config(epochs=1), resume="step-00000009")


def test_a_damaged_checkpoint_is_replaced_by_the_one_before_it(tiny: ModuleType, tmp_path: Path) -> None:
    _, whole, hooks = tiny.run_finetune(tmp_path, tiny.make_config(epochs=2))
    before, last = hooks.published[-2:]
    path = tmp_path / "j-test" / "checkpoints" / last / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    _, resumed, hooks = tiny.run_finetune(tmp_path, tiny.make_config(epochs=2), resume=last)
    assert hooks.published == [last], f"it trained on from {before}"
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_frozen_layers_stay_as_they_were(tiny: ModuleType, tmp_path: Path) -> None:
    before = _weights(tiny.make_model())
    _, model, _ = tiny.run_finetune(tmp_path, tiny.make_config(epochs=1, optim={"freeze_layers": 1}))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert len(changed) == 20
    assert not {name for name in changed if "embeddings" in name or ".layer.0." in name}
    with pytest.raises(ConfigError, match="--freeze-layers 3: the model has 2"):
        tiny.run_finetune(tmp_path, tiny.make_config(epochs=1, optim={"freeze_layers": 3}))


def test_deterministic_mode_runs_and_is_put_back(tiny: ModuleType, tmp_path: Path) -> None:
    _, model, _ = tiny.run_finetune(tmp_path / "a", tiny.make_config(epochs=1, deterministic=True))
    _, plain, _ = tiny.run_finetune(tmp_path / "b", tiny.make_config(epochs=1))
    assert not torch.are_deterministic_algorithms_enabled()
    _assert_same_bits(model, plain)


def test_the_series_holds_each_step_once_also_after_a_resume(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.make_config(epochs=2)
    _run_until_killed(tiny, tmp_path, config)
    tiny.run_finetune(tmp_path, config, resume="step-00000009")
    lines = [json.loads(line) for line in (tmp_path / "j-test" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 19))
    assert [line["step"] for line in lines if line["kind"] == "epoch"] == [9, 18]
    assert set(lines[0]) == {
        "kind", "step", "epoch", "loss", "lr", "grad_norm", "examples_per_s", "tokens_per_s",
    }  # fmt: skip


def test_artefacts_are_where_the_job_folder_says(tiny: ModuleType, tmp_path: Path, pictures: None) -> None:
    result, _, _ = tiny.run_finetune(tmp_path, tiny.make_config(epochs=1))
    assert result.plots == ("plots/curves.png", "plots/confusion.png")
    for name in result.plots:
        assert (tmp_path / "j-test" / name).read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "j-test" / "tensorboard").glob("events.*"))) == 1


def test_progress_counts_down_to_the_end(tiny: ModuleType, tmp_path: Path) -> None:
    ticks = iter(range(10_000))
    _, _, hooks = tiny.run_finetune(tmp_path, tiny.make_config(epochs=2), clock=lambda: float(next(ticks)))
    assert [p.step for p in hooks.progress] == list(range(1, 19))
    assert [p.epoch for p in hooks.progress] == [0] * 9 + [1] * 9
    assert [p.eta_s for p in hooks.progress] == [float(18 - p.step) for p in hooks.progress]
    assert hooks.progress[3].examples_per_s == 8.0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
    ],
)
def test_out_of_memory_says_what_to_make_smaller(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("bertjobs.training.step.train_step", fail)
    with pytest.raises(OutOfMemory, match=r"with 16384 tokens at once .* Lower --microbatch-tokens"):
        tiny.run_finetune(tmp_path, tiny.make_config())


def test_other_runtime_errors_are_left_alone(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("bertjobs.training.step.train_step", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        tiny.run_finetune(tmp_path, tiny.make_config())
