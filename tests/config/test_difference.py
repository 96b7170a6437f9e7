"""What of a stored configuration is not as it began."""

from bertjobs.config import load_config
from bertjobs.config.difference import changed_values, values_by_path
from bertjobs.config.load import preset_layer, set_layer


def test_a_configuration_of_defaults_differs_only_in_what_was_set() -> None:
    config = load_config("finetune", set_layer(("task.name=cola",))).model_dump(mode="json")
    assert [change.to_json() for change in changed_values("finetune", config)] == [
        {"path": "task.name", "value": "cola", "default": "snli"}
    ]


def test_a_value_is_compared_with_the_preset() -> None:
    layers = preset_layer("finetune", "demo"), set_layer(("optim.lr=0.5",))
    config = load_config("finetune", *layers).model_dump(mode="json")
    (change,) = changed_values("finetune", config, preset="demo")
    assert (change.path, change.value) == ("optim.lr", 0.5)
    assert change.default == preset_layer("finetune", "demo").values["optim.lr"]
    assert len(changed_values("finetune", config)) > 1
    assert changed_values("finetune", config, preset="gone") == changed_values("finetune", config)
    assert changed_values("a kind of later", config) == []


def test_configurations_are_put_side_by_side() -> None:
    one, other = {"a": {"x": 1}}, {"a": {"x": 2, "y": None}, "b": {"z": 3}, "plain": 1}
    assert values_by_path([one, other]) == {"a.x": [1, 2], "a.y": [None, None], "b.z": [None, 3]}
