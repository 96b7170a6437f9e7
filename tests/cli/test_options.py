"""The table of flags: every flag leads to a parameter, every parameter has a flag, and the schema speaks."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bertjobs.cli.main import main
from bertjobs.cli.options import FLAGS, ConfigOption, config_options, resolve
from bertjobs.config import CONFIG_OF_KIND, describe_parameter, load_config, parameter_paths
from bertjobs.errors import ConfigError

ROWS = [(flag, path) for flags in FLAGS.values() for flag, path in flags.items()]


def test_every_flag_leads_to_a_parameter_of_some_kind() -> None:
    assert len(ROWS) > 40
    known = {path for kind in CONFIG_OF_KIND for path in parameter_paths(kind)}
    assert {path for _, path in ROWS} <= known
    assert len({path for _, path in ROWS}) == len({flag for flag, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize("kind", list(CONFIG_OF_KIND))
def test_every_parameter_has_a_flag(kind: str) -> None:
    assert set(parameter_paths(kind)) - {path for _, path in ROWS} == set()


@pytest.mark.parametrize("kind", list(CONFIG_OF_KIND))
def test_a_flag_is_named_after_its_parameter(kind: str) -> None:
    options = config_options(kind)
    assert len(options) > 10
    renamed = {"task.name": "--task", "data.path": "--data", "model.source": "--model"}
    for option in options:
        leaf = "--" + option.path.partition(".")[2].replace("_", "-")
        assert option.opts == [renamed.get(option.path, leaf)]


@pytest.mark.parametrize("kind", list(CONFIG_OF_KIND))
def test_help_shows_what_the_schema_says(kind: str) -> None:
    output = " ".join(CliRunner().invoke(main, ["submit", kind, "--help"], terminal_width=400).output.split())
    for option in config_options(kind):
        parameter = describe_parameter(kind, option.path)
        assert " ".join(parameter.help.split()) in output
        for choice in parameter.choices or ():
            assert choice in output


@pytest.mark.parametrize(
    ("flag", "path"), [(o.opts[0], o.path) for o in config_options("finetune")], ids=lambda v: str(v)
)
def test_a_flag_sets_its_parameter_and_is_named_in_its_error(flag: str, path: str) -> None:
    parameter = describe_parameter("finetune", path)
    if parameter.type is not str or parameter.choices:
        with pytest.raises(ConfigError) as e:
            resolve("finetune", {path: "§"})
        assert e.value.message.startswith(f"{flag}: § is not allowed; ")
    value = {bool: True, int: "128", float: "0.005", str: "x"}[parameter.type]
    if parameter.choices:
        value = parameter.choices[-1]
    given = {**BESIDE.get(path, {}), path: value}
    section, _, leaf = path.partition(".")
    found = getattr(getattr(resolve("finetune", given), section), leaf)
    assert found == (value if parameter.type is bool else parameter.type(value))


# What has to be said as well for a value to make sense.
BESIDE: dict[str, dict[str, Any]] = {
    "optim.decay_ratio": {"optim.schedule": "wsd"},
    "resources.workers": {"train.batch_size": 128},
    "resources.gpus": {"train.batch_size": 128},
    "train.grad_exchange": {"resources.workers": 2},
    "train.accumulation": {"train.batch_size": 128},
    "model.num_heads": {"model.source": "bert.zip"},
}


def test_flags_go_over_set_over_file_over_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("optim: {lr: 1e-3, weight_decay: 0.3, eps: 1e-7}")
    config = resolve(
        "finetune",
        {"optim.lr": "3e-3"},
        preset="cola",
        config=path,
        assign=("optim.lr=2e-3", "optim.weight_decay=0.2"),
    ).model_dump()
    assert config["task"]["name"] == "cola"
    assert [config["optim"][name] for name in ("lr", "weight_decay", "eps")] == [3e-3, 0.2, 1e-7]


def test_without_anything_given_the_defaults_hold() -> None:
    assert resolve("finetune", {}) == load_config("finetune")


def test_a_switch_can_be_given_both_ways() -> None:
    (option,) = (o for o in config_options("finetune") if o.path == "train.deterministic")
    assert isinstance(option, ConfigOption)
    assert option.opts + option.secondary_opts == ["--deterministic", "--no-deterministic"]
    assert option.default is None
