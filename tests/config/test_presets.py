"""Every preset validates, says how to use it and where its numbers come from."""

import pytest

from bertjobs.config import CONFIG_OF_KIND, load_config, preset_layer
from bertjobs.config.presets import preset_names, preset_path
from bertjobs.errors import ConfigError


def test_the_presets_are_these() -> None:
    assert preset_names("finetune") == [
        *("cola", "demo", "hf-trainer", "mnli", "mrpc", "qnli", "qqp", "rte"),
        *("snli", "snli-d2l", "squad", "squad-v2", "sst2", "stsb", "swag", "wnli"),
    ]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in CONFIG_OF_KIND for name in preset_names(kind)]
)
def test_a_preset_validates_and_opens_with_its_command(kind: str, name: str) -> None:
    load_config(kind, preset_layer(kind, name))
    comment = [line for line in preset_path(kind, name).read_text().splitlines() if line.startswith("#")]
    command = "tune" if kind == "tune" else f"submit {kind}"
    assert any(f"bertjobs {command} --preset {name}" in line for line in comment[:5])
    assert len(comment) >= 6


def test_the_d2l_recipe_is_the_books() -> None:
    config = load_config("finetune", preset_layer("finetune", "snli-d2l")).model_dump()
    assert (config["text"]["max_len"], config["train"]["batch_size"], config["train"]["epochs"]) == (
        128,
        512,
        5,
    )
    assert (config["optim"]["lr"], config["optim"]["weight_decay"]) == (1e-4, 0.0)
    assert (config["optim"]["schedule"], config["optim"]["max_grad_norm"]) == ("constant", 0.0)


def test_the_cola_recipe_is_the_published_one() -> None:
    config = load_config("finetune", preset_layer("finetune", "cola")).model_dump()
    assert (config["data"]["valid_ratio"], config["data"]["split_seed"]) == (0.1, 2018)
    assert (config["train"]["batch_size"], config["train"]["epochs"]) == (32, 4)
    assert (config["optim"]["lr"], config["optim"]["warmup_ratio"]) == (2e-5, 0.1)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as e:
        preset_layer("finetune", "colla")
    assert e.value.message == "--preset colla: finetune has no such preset"
    assert e.value.hint == (
        "Did you mean cola? Known are cola, demo, hf-trainer, mnli, mrpc, qnli, qqp, rte, snli, snli-d2l, "
        "squad, squad-v2, sst2, stsb, swag, wnli."
    )
