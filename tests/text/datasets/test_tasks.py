""""""

import json

import pytest

from bertjobs.errors import ConfigError
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import BUILT_IN, resolve_task


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_json_gives_the_same_task_back(name: str) -> None:
    task = resolve_task(name)
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_the_built_in_tasks_are_what_is_published() -> None:
    assert resolve_task("snli").labels == ("entailment", "neutral", "contradiction")
    assert resolve_task("snli").metric == "accuracy"
    assert resolve_task("cola").label_values == ("0", "1")
    assert resolve_task("cola").metric == "mcc"


def test_a_misspelt_task_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError) as e:
        resolve_task("snly")
    assert str(e.value) == (
        "--task snly: there is no such task. Choose one of snli, cola, sst2, mrpc, qqp, stsb, mnli, qnli, "
        "rte, wnli, squad, squad_v2, swag, "
        "or give the path of a task file (.yaml)."
    )
