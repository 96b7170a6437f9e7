"""Values in conflict with each other are errors, and so are given values without effect."""

import pytest

from bertjobs.config import ConfigLayer, load_config, preset_layer, set_layer, stored_layer
from bertjobs.errors import ConfigError


def message_of(kind: str, *assignments: str) -> str:
    with pytest.raises(ConfigError) as e:
        load_config(kind, set_layer(assignments))
    return e.value.message


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ("resources.gpus=2", "resources.workers=3"),
            "--set resources.workers and --set resources.gpus: 3 workers need a GPU each, but there are 2",
        ),
        (
            ("resources.gpus=3", "resources.workers=2"),
            "--set resources.gpus and --set resources.workers: 3 GPUs cannot be shared evenly among 2 "
            "workers; leave --workers out for one worker per GPU, or give a divisor of --gpus",
        ),
        (
            ("train.batch_size=4", "train.accumulation=8"),
            "--set train.batch_size and --set train.accumulation: a batch of 4 cannot be split into 8 "
            "microbatch(es) on each of 1 worker(s)",
        ),
        (
            ("resources.gpus=64",),
            "--set resources.gpus: a batch of 32 cannot be split into 1 microbatch(es) on each of 64 "
            "worker(s)",
        ),
        (
            ("optim.schedule=wsd", "optim.warmup_ratio=0.9"),
            "--set optim.warmup_ratio: warmup (0.9) and decay (0.2) of the wsd schedule take more than all "
            "steps",
        ),
        (
            ("train.microbatch_tokens=100",),
            "--set train.microbatch_tokens: 100 tokens cannot hold one example of 128",
        ),
    ],
)
def test_a_conflict_names_the_values_that_were_given(assignments: tuple[str, ...], message: str) -> None:
    assert message_of("finetune", *assignments) == message


@pytest.mark.parametrize("kind", ["finetune", "pretrain", "tune", "evaluate", "encode"])
def test_gpus_that_workers_cannot_share_evenly_are_refused_for_every_kind(kind: str) -> None:
    needed = {"evaluate": ("model.source=m",), "encode": ("model.source=m", "data.path=lines.txt")}
    given = (*needed.get(kind, ()), "resources.gpus=3", "resources.workers=2")
    assert "resources.gpus" in message_of(kind, *given)
    load_config(kind, set_layer((*given[:-2], "resources.gpus=3", "resources.workers=3")))


def test_an_evaluation_cannot_have_more_workers_than_examples_in_a_batch() -> None:
    message = message_of("evaluate", "model.source=m", "train.batch_size=2", "resources.workers=4")
    assert message.endswith("4 workers cannot share batches of 2")


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ("optim.decay_ratio=0.3",),
            "--set optim.decay_ratio has no effect: only the wsd schedule uses it",
        ),
        (
            ("train.max_steps=10", "train.epochs=2"),
            "--set train.epochs has no effect: --max-steps sets the length of training",
        ),
        (
            ("model.source=org/name", "model.vocab=v.txt"),
            "--set model.vocab has no effect: pretrained weights come with their own vocabulary",
        ),
        (
            ("model.source=org/name", "model.vocab_size=99"),
            "--set model.vocab_size has no effect: pretrained weights come with their own vocabulary",
        ),
        (
            ("model.source=tiny", "model.vocab=v.txt", "model.vocab_size=99"),
            "--set model.vocab_size has no effect: the given vocabulary has its own size",
        ),
        (
            ("model.source=tiny", "model.num_heads=4"),
            "--set model.num_heads has no effect: a model size defines how many heads it has",
        ),
        (
            ("data.valid_split=dev", "data.valid_ratio=0.2"),
            "--set data.valid_ratio has no effect: --valid-split names the split to validate on, so no "
            "rows are held out",
        ),
        (
            ("data.valid_split=dev", "data.split_seed=1"),
            "--set data.split_seed has no effect: --valid-split names the split to validate on, so no "
            "rows are held out",
        ),
    ],
)
def test_a_given_value_without_effect_is_refused(assignments: tuple[str, ...], message: str) -> None:
    assert message_of("finetune", *assignments) == message


def test_a_preset_may_set_what_a_flag_makes_useless() -> None:
    config = load_config(
        "finetune", preset_layer("finetune", "cola"), set_layer(("data.valid_split=in_domain_dev",))
    )
    assert config.data.valid_split == "in_domain_dev"  # type: ignore[attr-defined]


def test_a_stored_value_without_effect_is_accepted_and_a_given_one_refused() -> None:
    stored = stored_layer({"optim": {"decay_ratio": 0.3, "schedule": "linear"}})
    assert load_config("finetune", stored).optim.decay_ratio == 0.3  # type: ignore[attr-defined]
    given = ConfigLayer({"optim.decay_ratio": 0.4}, {"optim.decay_ratio": "--decay-ratio"})
    with pytest.raises(ConfigError, match="--decay-ratio has no effect"):
        load_config("finetune", stored, given)
