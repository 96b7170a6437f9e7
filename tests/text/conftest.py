"""What the tests of this room share: the real data, and ways to write and read small files of rows."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from bertjobs.text.datasets.read_split import Split, read_split
from bertjobs.text.datasets.task import Task

# Examples are bounded by their number: a loaded machine must not fail a test.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(scope="session")
def real_data(data_root: Path) -> Path:
    """The folder of the real data sets."""
    return data_root / "data"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Split]:
    """Read one file, or a named split, with the usual options."""

    def read_one(
        task: Task,
        path: Path | None,
        *,
        split: str = "train",
        on_bad_row: str = "error",
        require_labels: bool = True,
    ) -> Split:
        given = None if path is None else str(path)
        return read_split(
            task,
            given,
            split=split,
            on_bad_row=on_bad_row,
            cache=tmp_path / "cache",
            require_labels=require_labels,
        )

    return read_one


def snli_row(premise: str = "A man runs.", hypothesis: str = "He moves.", label: str = "entailment") -> dict:
    return {"gold_label": label, "sentence1": premise, "sentence2": hypothesis}


def jsonl(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def snli_file(tmp_path: Path) -> Path:
    """Three labelled pairs and one without a gold label."""
    path = tmp_path / "snli_1.0_train.jsonl"
    labels = ("entailment", "-", "neutral", "contradiction")
    path.write_text(jsonl(snli_row(f"Premise {i}.", f"Hypothesis {i}.", x) for i, x in enumerate(labels)))
    return path
