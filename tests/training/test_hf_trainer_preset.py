"""The preset `hf-trainer` has the Trainer's learning rates, its decayed parameters and its result."""

from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bertjobs.config import load_config, preset_layer, set_layer
from bertjobs.modeling.param_groups import parameter_groups
from bertjobs.training.schedule import lr_at

NUM_STEPS = 23


@pytest.fixture(scope="module")
def config() -> Any:
    return load_config("finetune", preset_layer("finetune", "hf-trainer"))


def test_the_rates_are_a_line_from_the_first_step_to_zero_after_the_last(config: Any) -> None:
    rates = [lr_at(step, num_steps=NUM_STEPS, optim=config.optim) for step in range(NUM_STEPS)]
    assert rates == pytest.approx([5e-5 * (NUM_STEPS - step) / NUM_STEPS for step in range(NUM_STEPS)])


def test_the_rates_are_those_of_transformers(config: Any) -> None:
    transformers = pytest.importorskip("transformers")
    adamw = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=config.optim.lr)
    schedule = transformers.get_linear_schedule_with_warmup(adamw, 0, NUM_STEPS)
    for step in range(NUM_STEPS):
        assert lr_at(step, num_steps=NUM_STEPS, optim=config.optim) == pytest.approx(
            schedule.get_last_lr()[0]
        )
        adamw.step()
        schedule.step()


def test_the_decayed_parameters_are_those_of_transformers(config: Any, tiny: ModuleType) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tiny.make_model()
    small = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    theirs = transformers.BertForSequenceClassification(transformers.BertConfig(**small, num_labels=3))
    # The Trainer decays all parameters but biases and those of LayerNorm.
    norms = {name for name, module in theirs.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    expected = {
        name
        for name, _ in theirs.named_parameters()
        if not name.endswith("bias") and name.rpartition(".")[0] not in norms
    }
    with_decay = config.optim.model_copy(update={"weight_decay": 0.01})
    groups = parameter_groups(ours, num_layers=2, optim=with_decay)
    assert {name for group in groups if group.weight_decay for name in group.names} == expected
    names = {name for group in groups for name in group.names}
    assert names == {name for name, _ in theirs.named_parameters()}


def test_the_values_are_the_defaults_of_transformers(config: Any) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = {field.name: field.default for field in fields(transformers.TrainingArguments)}
    optim, train = config.optim, config.train
    assert (theirs["learning_rate"], theirs["weight_decay"]) == (optim.lr, optim.weight_decay)
    assert (theirs["adam_beta1"], theirs["adam_beta2"]) == (optim.beta1, optim.beta2)
    assert (theirs["adam_epsilon"], theirs["max_grad_norm"]) == (optim.eps, optim.max_grad_norm)
    assert theirs["lr_scheduler_type"] == optim.schedule
    assert theirs["warmup_steps"] == optim.warmup_ratio == 0
    assert theirs["num_train_epochs"] == train.epochs
    assert theirs["per_device_train_batch_size"] == train.batch_size
    assert theirs["seed"] == train.seed
    assert (theirs["bf16"], theirs["fp16"], train.precision) == (False, False, "fp32")
    assert (theirs["load_best_model_at_end"], train.keep_weights) == (False, "last")


def test_the_last_weights_are_kept_where_that_is_asked(tiny: ModuleType, tmp_path: Path) -> None:
    # A rate this high makes the first evaluation the best one, or some other: the last is kept all the same.
    kept = {}
    for which in ("best", "last"):
        settings = tiny.make_config(epochs=3, optim={"lr": 0.3}, keep_weights=which)
        result, model, hooks = tiny.run_finetune(tmp_path / which, settings)
        kept[which] = result, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    best, last = kept["best"][0], kept["last"][0]
    assert best.best_step == last.best_step < last.num_steps
    assert last.metrics == hooks.epochs[-1].metrics
    assert best.metrics == next(e for e in hooks.epochs if e.step == best.best_step).metrics
    assert any(not torch.equal(kept["best"][1][name], tensor) for name, tensor in kept["last"][1].items())


def test_flags_change_the_preset_as_any_other() -> None:
    layer = set_layer(("train.batch_size=64",))
    assert load_config("finetune", preset_layer("finetune", "hf-trainer"), layer).train.batch_size == 64
