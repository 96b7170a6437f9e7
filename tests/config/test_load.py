"""Layers are merged in order, and every error says what was given, how, and what is allowed."""

from pathlib import Path

import pytest

from bertjobs.config import (
    ConfigLayer,
    FinetuneConfig,
    file_layer,
    given_values,
    load_config,
    preset_layer,
    set_layer,
    stored_layer,
    with_values,
)
from bertjobs.errors import ConfigError


def test_later_layers_win_over_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("optim:\n  lr: 3e-5\n  weight_decay: 0.2\ntrain:\n")
    flags = ConfigLayer({"optim.weight_decay": "0.3"}, {"optim.weight_decay": "--weight-decay"})
    config = load_config(
        "finetune", preset_layer("finetune", "cola"), file_layer(path), set_layer(("train.epochs=9",)), flags
    )
    assert isinstance(config, FinetuneConfig)
    assert (config.task.name, config.optim.lr, config.optim.weight_decay) == ("cola", 3e-5, 0.3)
    assert config.train.epochs == 9


def test_a_resolved_config_is_read_back_as_it_was() -> None:
    config = load_config(
        "finetune", preset_layer("finetune", "snli-d2l"), set_layer(("data.valid_split=dev",))
    )
    assert load_config("finetune", stored_layer(config.model_dump(mode="json"))) == config


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.lr=0", "--set optim.lr: 0 is not allowed; expected a number > 0 and <= 1"),
        ("optim.lr=-1", "--set optim.lr: -1 is not allowed; expected a number > 0 and <= 1"),
        ("optim.lr=fast", "--set optim.lr: fast is not allowed; expected a number > 0 and <= 1"),
        ("optim.lr=.nan", "--set optim.lr: nan is not allowed; expected a number > 0 and <= 1"),
        ("text.max_len=2", "--set text.max_len: 2 is not allowed; expected a whole number >= 8 and <= 8192"),
        ("train.epochs=1.5", "--set train.epochs: 1.5 is not allowed; expected a whole number >= 1"),
        (
            "optim.schedule=lineal",
            "--set optim.schedule: lineal is not allowed; choose one of linear, cosine, constant, wsd",
        ),
        (
            "data.limit_train=0",
            "--set data.limit_train: 0 is not allowed; expected a whole number >= 1, or nothing",
        ),
        (
            "train.deterministic=perhaps",
            "--set train.deterministic: perhaps is not allowed; expected true or false",
        ),
        ("task.name=''", "--set task.name: '' is not allowed; expected a text that is not empty"),
    ],
)
def test_an_error_names_the_wrong_value_and_what_is_allowed(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as e:
        load_config("finetune", set_layer((assignment,)))
    assert e.value.message == message
    assert e.value.exit_code == 2


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("optim.lrr", "Did you mean optim.lr?"),
        ("optim.seed", "Did you mean train.seed?"),
        ("optims.lr", "Did you mean optim.lr?"),
        ("text", "It is a section; its parameters are text.max_len, text.truncation, text.doc_stride."),
        ("text.colour", "Known are: text.max_len, text.truncation, text.doc_stride."),
    ],
)
def test_a_misspelt_key_is_refused_with_a_suggestion(path: str, hint: str) -> None:
    with pytest.raises(ConfigError) as e:
        load_config("finetune", set_layer((f"{path}=1",)))
    assert e.value.message == f"--set {path}: finetune has no parameter {path}"
    assert e.value.hint == hint


def test_a_missing_required_value_is_named_by_its_flag() -> None:
    with pytest.raises(ConfigError, match=r"^--model is required$"):
        load_config("evaluate", ConfigLayer({}, {"model.source": "--model"}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"optim: [", "is not YAML"),
        (b"- lr", "must be a mapping of sections, but is list"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"optim: 3", "finetune has no parameter optim"),
        (b"3: 4", "finetune has no parameter 3"),
        (b"optim: {lr: [1]}", r"optim.lr in --config .*: \[1\] is not allowed"),
    ],
)
def test_a_file_that_is_not_a_config_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config("finetune", file_layer(path))


def test_a_missing_config_file_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"--config nowhere\.yaml cannot be read: No such file or directory"
    ):
        file_layer(Path("nowhere.yaml"))


def test_an_assignment_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--set optim\.lr: expected a dotted path and a value"):
        set_layer(("optim.lr",))


def test_the_values_that_the_user_gave_are_known_with_their_names() -> None:
    preset = preset_layer("finetune", "cola")
    given = set_layer(("data.valid_ratio=0.2", "optim.lr=1e-4"))
    flags = ConfigLayer({"optim.lr": "1e-5"}, {"optim.lr": "--lr"})
    assert given_values(preset, given, flags) == {
        "data.valid_ratio": "--set data.valid_ratio",
        "optim.lr": "--lr",
    }
    assert given_values(given, preset) == {}  # the preset sets both, and comes last


def test_values_are_replaced_without_a_change_of_the_others() -> None:
    config = load_config("finetune", set_layer(("optim.lr=1e-4",)))
    located = with_values(config, {"data.path": "/data", "model.source": "/model"})
    assert isinstance(located, FinetuneConfig)
    assert (located.data.path, located.model.source, located.optim.lr) == ("/data", "/model", 1e-4)
    assert config.model_dump() | {"data": located.data.model_dump(), "model": located.model.model_dump()} == (
        located.model_dump()
    )
