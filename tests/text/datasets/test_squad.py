"""SQuAD as tasks: which files they are, a user's own questions, and values that have no effect on a task."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.config.finetune import TaskSection
from bertjobs.errors import ConfigError, DataError
from bertjobs.text.datasets.read_split import Split
from bertjobs.text.datasets.squad import SQUAD, SQUAD_V2
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import configured_task, resolve_task
from bertjobs.text.encoding import cache_key
from bertjobs.text.vocabulary import train_wordpiece

Read = Callable[..., Split]


def test_both_versions_are_tasks_of_the_type_span() -> None:
    assert (resolve_task("squad"), resolve_task("squad_v2")) == (SQUAD, SQUAD_V2)
    assert (SQUAD.type, SQUAD.unanswerable, SQUAD_V2.unanswerable) == ("span", False, True)
    assert SQUAD_V2.metric == "f1"


def test_a_task_of_questions_is_the_same_after_json() -> None:
    task = replace(SQUAD_V2, null_threshold=-1.5, n_best=5)
    assert Task.from_json(task.to_json()) == task


def test_questions_in_files_of_another_ending_are_refused(sample: Path, read: Read) -> None:
    with pytest.raises(DataError, match=r"files ending in '.tsv' cannot be read as questions"):
        read(SQUAD, None, split=str(sample / "cola_public/raw/in_domain_dev.tsv"))


def test_a_task_file_describes_questions_of_ones_own(tmp_path: Path, sample: Path, read: Read) -> None:
    task_file = tmp_path / "manual.yaml"
    task_file.write_text("type: span\nunanswerable: true\nmetric: exact\n")
    task = resolve_task(str(task_file))
    assert (task.name, task.type, task.unanswerable, task.metric) == ("manual", "span", True, "exact")
    (tmp_path / "dev.json").write_bytes((sample / "squad/dev-v2.0.json").read_bytes())
    found = read(task, tmp_path, split="dev").table
    assert found.equals(read(SQUAD_V2, sample / "squad", split="dev").table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("type: span\nmetric: mcc\n", "metric 'mcc' is not known"),
        ("type: span\nunanswerable: maybe\n", "unanswerable: 'maybe' is not true or false"),
        ("type: span\nlabels: [a, b]\n", "unknown key 'labels'"),
    ],
)
def test_a_broken_task_file_of_questions_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "manual.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        resolve_task(str(tmp_path / "manual.yaml"))


def test_what_is_said_of_answers_is_refused_for_other_tasks() -> None:
    section = TaskSection(name="squad_v2", n_best=5, max_answer_tokens=9, null_threshold=-2.0)
    assert configured_task(section) == replace(SQUAD_V2, n_best=5, max_answer_tokens=9, null_threshold=-2.0)
    with pytest.raises(ConfigError, match="--n-best has no effect: cola does not look for answers"):
        configured_task(TaskSection(name="cola", n_best=5))
    with pytest.raises(ConfigError, match="--null-threshold has no effect: every question of squad has"):
        configured_task(TaskSection(name="squad", null_threshold=0.0))


def test_how_answers_are_chosen_does_not_change_the_encoded_form(sample: Path) -> None:
    files, tokenizer = [sample / "squad/dev-v2.0.json"], train_wordpiece(["a sea"], vocab_size=64)
    other = replace(SQUAD_V2, n_best=5, max_answer_tokens=9, null_threshold=-2.0)
    assert cache_key(files, SQUAD_V2, tokenizer, split="dev") == cache_key(
        files, other, tokenizer, split="dev"
    )
    assert cache_key(files, SQUAD, tokenizer, split="dev") != cache_key(files, other, tokenizer, split="dev")
