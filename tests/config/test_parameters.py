"""Every parameter is described by its schema: type, bounds, choices, default and a sentence of help."""

import pytest

from bertjobs.config import CONFIG_OF_KIND, describe_parameter, parameter_paths, parameters


@pytest.mark.parametrize("kind", list(CONFIG_OF_KIND))
def test_every_parameter_has_a_sentence_of_help_and_a_plain_type(kind: str) -> None:
    found = list(parameters(kind))
    assert [parameter.path for parameter in found] == parameter_paths(kind)
    assert len(found) > 10
    for parameter in found:
        assert parameter.help.endswith("."), parameter.path
        plain = (dict,) if parameter.path == "search.space" else (str, int, float, bool)
        assert parameter.type in plain, parameter.path
    of_files = ["model.source", "data.path"]
    required = {"evaluate": ["model.source"], "encode": of_files, "predict": of_files}
    assert [p.path for p in found if p.is_required] == required.get(kind, [])


def test_a_parameter_is_described_with_bounds_choices_and_default() -> None:
    lr = describe_parameter("finetune", "optim.lr")
    assert (lr.type, lr.bounds, lr.default, lr.is_optional) == (float, "> 0 and <= 1", 5e-5, False)
    assert describe_parameter("finetune", "data.limit_train").is_optional
    assert describe_parameter("finetune", "data.limit_train").bounds == ">= 1"
    assert describe_parameter("finetune", "optim.schedule").choices == ("linear", "cosine", "constant", "wsd")


def test_a_default_is_shown_as_a_user_writes_it() -> None:
    shown = {p.path: p.shown_default for p in parameters("evaluate")} | {
        p.path: p.shown_default for p in parameters("finetune")
    }
    assert (shown["train.deterministic"], shown["optim.lr"], shown["task.name"]) == ("false", "5e-05", "snli")
    assert shown["data.path"] is None
    assert describe_parameter("evaluate", "model.source").shown_default is None
