"""Whole pretraining runs of a very small model on the CPU."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig as TheirConfig
from transformers import BertForPreTraining as TheirModel

from bertjobs.errors import DataError, ModelError, OutOfMemory
from bertjobs.training.pretraining.pretrain import _Pretraining, pretrain
from bertjobs.training.schedule import lr_at


class Killed(Exception):
    """Stands for the end of the process."""


def _assert_same_bits(a: torch.nn.Module, b: torch.nn.Module) -> None:
    theirs = b.state_dict()
    assert [n for n, t in a.state_dict().items() if not torch.equal(t, theirs[n])] == []


def _parts(hooks: Any) -> list[list[float]]:
    return [[p.losses["mlm_loss"], p.losses["nsp_loss"]] for p in hooks.progress]


def _objective(tiny_pretrain: ModuleType, model: torch.nn.Module, config: Any) -> _Pretraining:
    return _Pretraining(
        model,
        config=config,
        train=tiny_pretrain.make_corpus(60, seed=1),
        valid=tiny_pretrain.make_corpus(40, seed=2, num_blocks=1),
        tokenizer=tiny_pretrain.Vocabulary(),
    )


def test_it_learns_both_and_reports_each_apart(tiny_pretrain: ModuleType, tmp_path: Path) -> None:
    optim = {"lr": 1e-2, "beta2": 0.95}
    config = tiny_pretrain.make_config(max_steps=120, batch_size=32, eval_steps=60, optim=optim)
    model = tiny_pretrain.make_model(dropout=0.0, spread=0.2)
    result, _, hooks = tiny_pretrain.run_pretrain(tmp_path, config, model=model, num_documents=200)
    parts = np.array(_parts(hooks))
    assert parts.shape == (120, 2)
    assert parts[:5].mean(0) == pytest.approx([np.log(90), np.log(2)], rel=0.2)
    assert parts[-10:, 0].mean() < 3.0
    assert [p.loss for p in hooks.progress] == pytest.approx(parts.sum(1).tolist())
    first, last = (epoch.metrics for epoch in hooks.epochs)
    assert [epoch.step for epoch in hooks.epochs] == [60, 120]
    assert last.mlm_loss < first.mlm_loss and last.mlm_accuracy > 0.1
    assert last.nsp_accuracy > 0.7
    assert last.mlm_loss < 0.7 * last.frequency_loss == pytest.approx(0.7 * first.frequency_loss)
    assert last.perplexity == pytest.approx(np.exp(last.mlm_loss))
    assert last.loss == pytest.approx(last.mlm_loss + last.nsp_loss)
    assert result.metrics == last
    assert (result.num_steps, result.stopped) == (120, None)


def test_the_loss_of_word_frequencies_is_that_of_counting(tiny_pretrain: ModuleType, tmp_path: Path) -> None:
    config = tiny_pretrain.make_config(max_steps=1)
    one_window = config.model_copy(update={"data": config.data.model_copy(update={"shuffle_blocks": 99})})
    objective = _objective(tiny_pretrain, tiny_pretrain.make_model(), one_window)
    source = tiny_pretrain.make_corpus(60, seed=1)
    ids = np.concatenate([source.get(number).ids for number in range(len(source.infos))])
    vocab_size = tiny_pretrain.Vocabulary().vocab_size
    counts = np.array([(ids == i).sum() + 1 for i in range(vocab_size)])
    surprises, step = [], 0
    while len(surprises) < objective.evaluate().num_masked:
        batch = objective._valid_loader.step_batch(step, batch_size=config.train.eval_batch_size)
        for microbatch in batch.microbatches:
            surprises += [-np.log(counts[i] / counts.sum()) for i in microbatch.targets_P.tolist()]
        step += 1
    assert objective.evaluate().frequency_loss == pytest.approx(np.mean(surprises), rel=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_it_follows_hugging_face_with_torch_step_by_step(
    tiny_pretrain: ModuleType, tmp_path: Path, tied: bool
) -> None:
    """The same losses as padded batches, all logits, `transformers`' BERT, AdamW and clip_grad_norm_."""
    config = tiny_pretrain.make_config(max_steps=12, optim={"weight_decay": 0.1, "max_grad_norm": 0.5})
    model = tiny_pretrain.make_model(dropout=0.0, tie_word_embeddings=tied)
    words = {k: v for k, v in vars(model.config).items() if k != "embedding_layer_norm"}
    reference = TheirModel(TheirConfig(**words))
    reference.load_state_dict(model.state_dict(), strict=False)
    reference.train()
    trained = dict(reference.named_parameters())
    if not tied:
        trained.pop("cls.predictions.bias")  # which their untied decoder does not use
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained.values() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in trained.values() if p.ndim < 2], "weight_decay": 0.0},
        ]
    )
    objective = _objective(tiny_pretrain, model, config)
    expected = []
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, num_steps=12, optim=config.optim)
        (microbatch,) = objective.step_batch(step).microbatches
        mlm_loss, nsp_loss = _their_losses(reference, microbatch)
        optimizer.zero_grad()
        (mlm_loss + nsp_loss).backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), 0.5)
        optimizer.step()
        expected.append([mlm_loss.item(), nsp_loss.item(), norm.item()])
    _, _, hooks = tiny_pretrain.run_pretrain(tmp_path, config, model=model)
    found = [[*losses, p.grad_norm] for losses, p in zip(_parts(hooks), hooks.progress, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def _their_losses(reference: TheirModel, microbatch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = microbatch.inputs
    labels_N = torch.full_like(inputs.ids_N, -100)
    labels_N[microbatch.masked_P] = microbatch.targets_P
    rows = [slice(s, s + n) for s, n in zip(inputs.starts_B.tolist(), inputs.lengths_B.tolist(), strict=True)]

    def padded(x_N: torch.Tensor, value: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([x_N[row] for row in rows], True, value)

    ids = padded(inputs.ids_N, 0)
    given = reference(ids, token_type_ids=padded(inputs.segments_N, 0), attention_mask=(ids != 0).long())
    mlm_loss = F.cross_entropy(given.prediction_logits.flatten(0, 1), padded(labels_N, -100).flatten())
    return mlm_loss, F.cross_entropy(given.seq_relationship_logits, microbatch.labels_B)


@pytest.mark.parametrize("split", [{"accumulation": 3}, {"microbatch_tokens": 64}])
def test_splitting_a_batch_changes_nothing_with_dropout_on(
    tiny_pretrain: ModuleType, tmp_path: Path, split: dict[str, int]
) -> None:
    _, _, whole = tiny_pretrain.run_pretrain(tmp_path / "a", tiny_pretrain.make_config(max_steps=20))
    config = tiny_pretrain.make_config(max_steps=20, **split)
    result, _, parts = tiny_pretrain.run_pretrain(tmp_path / "b", config)
    assert len(whole.progress) == 20
    np.testing.assert_allclose(_parts(parts), _parts(whole), rtol=1e-4)
    assert result.metrics.num_masked == whole.epochs[-1].metrics.num_masked
    assert result.metrics.loss == pytest.approx(whole.epochs[-1].metrics.loss, rel=1e-3)


def test_recomputed_activations_change_no_bit(tiny_pretrain: ModuleType, tmp_path: Path) -> None:
    _, plain, hooks = tiny_pretrain.run_pretrain(tmp_path / "a", tiny_pretrain.make_config(max_steps=5))
    config = tiny_pretrain.make_config(max_steps=5, activation_checkpointing=True)
    _, model, again = tiny_pretrain.run_pretrain(tmp_path / "b", config)
    assert _parts(again) == _parts(hooks)
    _assert_same_bits(model, plain)


def test_killed_at_137_of_200_steps_it_ends_as_undisturbed(tiny_pretrain: ModuleType, tmp_path: Path) -> None:
    config = tiny_pretrain.make_config(max_steps=200, checkpoint_steps=20, batch_size=4)
    whole_result, whole, whole_hooks = tiny_pretrain.run_pretrain(tmp_path / "whole", config)
    hooks = tiny_pretrain.tiny.MemoryHooks()

    def kill(progress: Any) -> None:
        hooks.progress.append(progress)
        if progress.step == 137:
            raise Killed

    hooks.on_progress = kill  # type: ignore[method-assign]
    with pytest.raises(Killed):
        tiny_pretrain.run_pretrain(tmp_path / "parts", config, hooks=hooks)
    assert hooks.published[-1] == "step-00000120"
    assert hooks.progress[-1].epoch > 0, "the end lies in the middle of a later epoch"
    # New weights from another seed: everything must come from the checkpoint.
    result, model, hooks = tiny_pretrain.run_pretrain(
        tmp_path / "parts", config, resume="step-00000120", model=tiny_pretrain.make_model(seed=9)
    )
    assert result == whole_result
    assert _parts(hooks) == _parts(whole_hooks)[120:]
    _assert_same_bits(model, whole)
    series = (tmp_path / "parts" / "j-test" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in series.splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 201))
    assert set(lines[0]) == {
        "kind", "step", "epoch", "loss", "mlm_loss", "nsp_loss", "lr", "grad_norm", "examples_per_s",
        "tokens_per_s",
    }  # fmt: skip


def test_only_the_newest_checkpoint_is_kept_and_the_last_weights_stay(
    tiny_pretrain: ModuleType, tmp_path: Path
) -> None:
    config = tiny_pretrain.make_config(max_steps=12, eval_steps=4, optim={"lr": 0.5, "max_grad_norm": 0.0})
    result, _, hooks = tiny_pretrain.run_pretrain(tmp_path, config)
    assert hooks.published == ["step-00000004", "step-00000008", "step-00000012"]
    kept = sorted(path.name for path in (tmp_path / "j-test" / "checkpoints").iterdir())
    assert kept == ["step-00000008", "step-00000012"], "and the one before it"
    assert result.metrics == hooks.epochs[-1].metrics
    assert result.best_step == min(hooks.epochs, key=lambda e: e.metrics.loss).step


def test_a_budget_of_tokens_ends_with_the_step_that_reaches_it(
    tiny_pretrain: ModuleType, tmp_path: Path
) -> None:
    config = tiny_pretrain.make_config(max_tokens=2000, optim={"warmup_ratio": 0.2})
    result, model, hooks = tiny_pretrain.run_pretrain(tmp_path / "whole", config)
    seen = _tokens(tiny_pretrain, config, result.num_steps)
    assert seen[-2] < 2000 <= seen[-1] == result.num_tokens
    rates = np.array([p.lr for p in hooks.progress])
    used = np.array([0, *seen[:-1]]) / 2000
    assert 0 < rates[0] < rates[1] < 3e-3
    assert rates[used >= 0.2] == pytest.approx(3e-3 * (1 - used[used >= 0.2]) / 0.8)
    assert hooks.progress[-1].num_steps == hooks.progress[-1].step == result.num_steps
    assert abs(hooks.progress[result.num_steps // 2].num_steps - result.num_steps) <= 2

    first = tiny_pretrain.tiny.MemoryHooks(stop_after=5)
    tiny_pretrain.run_pretrain(tmp_path / "parts", config, hooks=first)
    assert len(first.progress) == 6
    again, resumed, _ = tiny_pretrain.run_pretrain(tmp_path / "parts", config, resume="step-00000006")
    assert again == result
    _assert_same_bits(resumed, model)


def _tokens(tiny_pretrain: ModuleType, config: Any, num_steps: int) -> list[int]:
    objective = _objective(tiny_pretrain, tiny_pretrain.make_model(), config)
    return np.cumsum([objective.step_batch(step).num_tokens for step in range(num_steps)]).tolist()


def test_a_budget_of_time_counts_training_only_and_goes_on_after_a_stop(
    tiny_pretrain: ModuleType, tmp_path: Path
) -> None:
    clock = _Clock()
    config = tiny_pretrain.make_config(max_time_s=10.0, eval_steps=4, optim={"warmup_ratio": 0.2})
    before, after = (_ticking(tiny_pretrain, clock, stop_after=stop) for stop in (4, None))
    given = {"config": config, "clock": clock}
    first, _, _ = tiny_pretrain.run_pretrain(tmp_path, hooks=before, **given)
    assert (first.stopped, first.num_steps) == ("asked to", 5)
    result, _, _ = tiny_pretrain.run_pretrain(tmp_path, hooks=after, resume="step-00000005", **given)
    assert result.stopped is None
    assert clock.now_s > 400, "evaluations take 100 s each"
    assert 10 < result.num_steps <= 16
    progress = before.progress + after.progress
    assert [p.step for p in progress] == list(range(1, result.num_steps + 1))
    rates = [p.lr for p in progress]
    assert all(0 < rate <= 3e-3 for rate in rates)
    assert rates[0] <= rates[1] < rates[2] and rates[-1] < 0.5e-3
    assert progress[-1].num_steps == result.num_steps


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _ticking(tiny_pretrain: ModuleType, clock: _Clock, *, stop_after: int | None) -> Any:
    """Hooks that let a second pass with each step, and 100 with each evaluation."""
    hooks = tiny_pretrain.tiny.MemoryHooks(stop_after=stop_after)

    def pass_time(seconds: float, remember: Callable[[Any], None], value: Any) -> None:
        remember(value)
        clock.now_s += seconds

    hooks.on_progress = partial(pass_time, 1.0, hooks.on_progress)
    hooks.on_epoch = partial(pass_time, 100.0, hooks.on_epoch)
    return hooks


@pytest.mark.parametrize("objective", [{"pairs": "sop"}, {"pairs": "none"}, {"segments": "sentence"}])
def test_every_objective_trains_what_it_uses_and_nothing_else(
    tiny_pretrain: ModuleType, tmp_path: Path, objective: dict[str, str]
) -> None:
    config = tiny_pretrain.make_config(max_steps=3, objective={**objective, "whole_word": True})
    before = tiny_pretrain.make_model()
    result, model, hooks = tiny_pretrain.run_pretrain(tmp_path, config)
    theirs = before.state_dict()
    same = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, theirs[name])}
    if objective == {"pairs": "none"}:
        assert {name for name in same if "pooler" not in name and "seq_relationship" not in name} == set()
        assert len(same) == 4
        assert set(hooks.progress[0].losses) == {"mlm_loss"}
        assert hooks.progress[0].loss == hooks.progress[0].losses["mlm_loss"]
        assert (result.metrics.nsp_loss, result.metrics.nsp_accuracy) == (None, None)
        assert result.metrics.loss == result.metrics.mlm_loss
    else:
        assert same == set()
        assert result.metrics.nsp_loss == pytest.approx(np.log(2), rel=0.1)


def test_validation_uses_at_most_max_valid_examples_in_any_batch_size(
    tiny_pretrain: ModuleType, tmp_path: Path
) -> None:
    found = []
    for name, size in (("a", 16), ("b", 5)):
        config = tiny_pretrain.make_config(max_steps=1, eval_examples=11, eval_batch_size=size)
        found.append(tiny_pretrain.run_pretrain(tmp_path / name, config)[0].metrics)
    assert found[0].num_examples == found[1].num_examples == 11
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-5)
    whole, _, _ = tiny_pretrain.run_pretrain(tmp_path / "c", tiny_pretrain.make_config(max_steps=1))
    assert whole.metrics.num_examples > 11


def test_a_run_with_other_masks_does_not_go_on_from_this_checkpoint(
    tiny_pretrain: ModuleType, tmp_path: Path
) -> None:
    tiny_pretrain.run_pretrain(tmp_path, tiny_pretrain.make_config(max_steps=2))
    for config, message in (
        (tiny_pretrain.make_config(max_steps=3), "its budget is"),
        (tiny_pretrain.make_config(max_steps=2, objective={"mask_ratio": 0.3}), "its objective is"),
    ):
        with pytest.raises(ModelError, match=f"belongs to another run: {message}"):
            tiny_pretrain.run_pretrain(tmp_path, config, resume="step-00000002")


def test_a_corpus_without_pairs_is_refused(tiny_pretrain: ModuleType, tmp_path: Path) -> None:
    corpus = tiny_pretrain.make_corpus(1, seed=1, num_blocks=1)
    with pytest.raises(DataError, match="single document"):
        pretrain(
            tiny_pretrain.make_model(), config=tiny_pretrain.make_config(), train=corpus, valid=corpus,
            tokenizer=tiny_pretrain.Vocabulary(), job_dir=tiny_pretrain.JobDir(str(tmp_path), "j"),
            hooks=tiny_pretrain.tiny.MemoryHooks(),
        )  # fmt: skip


def test_curves_show_each_part(tiny_pretrain: ModuleType, tmp_path: Path, pictures: None) -> None:
    config = tiny_pretrain.make_config(max_steps=4, eval_steps=2)
    result, _, _ = tiny_pretrain.run_pretrain(tmp_path, config)
    assert result.plots == ("plots/curves.png",)
    assert (tmp_path / "j-test" / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_too_little_memory_is_known_before_the_first_step(
    tiny_pretrain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertjobs.training.memory.free_bytes", lambda _: 100_000)
    hooks = tiny_pretrain.tiny.MemoryHooks()
    with pytest.raises(OutOfMemory, match=r"needs about .* GB .* there are .* GB: .* --microbatch-tokens"):
        tiny_pretrain.run_pretrain(tmp_path, tiny_pretrain.make_config(max_steps=1), hooks=hooks)
    assert hooks.progress == []
