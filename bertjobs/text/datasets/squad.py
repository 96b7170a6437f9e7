"""SQuAD: which piece of a context answers a question; in v2.0 some questions have no answer.

Source: Rajpurkar et al. 2016 (v1.1) and Rajpurkar et al. 2018 (v2.0).
"""

from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.task import SplitFiles, Task

COLUMNS = Columns(text_a="question", text_b="context", label="answers")


def _task(name: str, *, unanswerable: bool) -> Task:
    return Task(
        name=name,
        type="span",
        labels=(),
        label_values=(),
        metric="f1",
        format=name,
        columns=COLUMNS,
        no_label=None,
        unanswerable=unanswerable,
    )


def _files(version: str, *, archive: str) -> SplitFiles:
    return SplitFiles(
        names={split: (f"{split}-{version}.json",) for split in ("train", "dev")},
        folders=("", "squad", "SQuAD", version),
        archive=archive,
    )


SQUAD = _task("squad", unanswerable=False)
SQUAD_V2 = _task("squad_v2", unanswerable=True)
FILES = _files("v1.1", archive="squad")
FILES_V2 = _files("v2.0", archive="squad_v2")
