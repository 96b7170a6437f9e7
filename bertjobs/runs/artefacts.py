"""What a run leaves in its folder for others to read.

`bertjobs.json`, beside Hugging Face's own files of the weights: the model's task (none where it was only
pretrained) and how texts were truncated. `predictions.parquet`: each rank writes its rows, the driver joins
them with the texts.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import bertjobs
from bertjobs.config.finetune import EvalTextSection
from bertjobs.config.sections import TextSection
from bertjobs.errors import ConfigError, ModelError
from bertjobs.storage import JobDir
from bertjobs.text.datasets.task import Task
from bertjobs.training.tasks.types import task_type

ARTEFACT_FILE = "bertjobs.json"


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What a job records of the model that it trained."""

    task: Task | None
    """None where it was pretrained, without a classifier."""
    text: TextSection
    """How texts were truncated; of a pretrained model only `max_len` was used."""
    trained_by: str
    """Id of the job."""

    def write(self, folder: Path) -> None:
        document = {
            "version": bertjobs.__version__,
            "task": None if self.task is None else self.task.to_json(),
            "text": self.text.model_dump(),
            "trained_by": self.trained_by,
        }
        (folder / ARTEFACT_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_artefact(folder: Path) -> Artefact | None:
    """Read it; None where the folder was not made by bertjobs. Raises: ModelError: it is damaged."""
    path = folder / ARTEFACT_FILE
    if not path.exists():
        return None
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        task = document["task"]
        return Artefact(
            task=None if task is None else Task.from_json(task),
            text=TextSection.model_validate(document["text"]),
            trained_by=document["trained_by"],
        )
    except (ValueError, KeyError, TypeError) as e:
        raise ModelError(f"{path} is damaged: {e}", hint="Train again, or give another --model.") from e


def trained_text(asked: EvalTextSection, artefact: Artefact | None) -> TextSection:
    """Return how texts are truncated: as the model was trained, or as asked where that is not known.

    Raises: ConfigError: what is asked contradicts what the model was trained with.
    """
    given = asked.model_dump(exclude_none=True)
    if artefact is None:
        return TextSection.model_validate(given)
    trained = artefact.text.model_dump()
    for name, value in given.items():
        if value != trained[name] and not (name == "doc_stride" and value == artefact.text.stride):
            raise ConfigError(
                f"--{name.replace('_', '-')} {value}: the model was trained with {trained[name]}",
                hint="Leave the flag out; it belongs to the model.",
            )
    return artefact.text


def check_task(task: Task, artefact: Artefact | None, folder: Path) -> None:
    """Raises: ModelError: the model has no head, that of another type of task, or one for other labels."""
    if artefact is None:
        return
    if artefact.task is None:
        raise ModelError(
            f"--model {folder}: it was pretrained and has no classifier",
            hint="Fine-tune it first: `bertjobs submit finetune --model ...`.",
        )
    if artefact.task.type != task.type:
        raise ModelError(
            f"--task {task.name} ({task.type}): the model {folder} has the head of another type of task; "
            f"it was trained for {artefact.task.name} ({artefact.task.type})",
            hint=f"Give --task {artefact.task.name}, or another --model.",
        )
    if artefact.task.labels != task.labels:
        raise ModelError(
            f"--task {task.name}: the model {folder} was trained for {artefact.task.name} "
            f"({', '.join(artefact.task.labels)})",
            hint=f"Give --task {artefact.task.name}, or another --model.",
        )


PREDICTIONS_FILE = "predictions.parquet"


class Predictions:
    """What one rank's predictions are kept as: `TaskType.outputs` of its rows."""

    def __init__(self, num_rows: int, *, num_outputs: int) -> None:
        self.outputs = np.full((num_rows, num_outputs), np.nan, dtype=np.float32)
        """(rows, outputs) of the whole encoded table; NaN where another rank predicts."""

    def add(self, rows: npt.NDArray[Any], outputs: npt.NDArray[np.float32]) -> None:
        """Record the outputs of these rows of the table."""
        self.outputs[rows] = outputs

    def write(self, job_dir: JobDir, *, rank: int, number: int = 0) -> None:
        """Write this rank's part of the `number`-th split, for `write_predictions`. Raises: StorageError."""
        buffer = io.BytesIO()
        np.save(buffer, self.outputs)
        job_dir.write_bytes(_part(rank, number), buffer.getvalue())


def write_predictions(
    job_dir: JobDir,
    table: pa.Table,
    *,
    task: Task,
    num_ranks: int,
    number: int = 0,
    name: str = "",
    submission: str | None = None,
) -> dict[str, str]:
    """Join the ranks' parts with the texts and publish them; return the path of the table, `predictions`.

    number, name: which split of the job it is, and its name where it is not the first, which the names of the
    files then contain. submission: the file for the task's server, whose path is then `submission`.

    Columns: those of the split, and what the task's type makes of the outputs (`prediction_columns`), as
    label, prediction, and the probability of each label as `p_<label>`. The type's own files, if any, are
    beside the table.
    """
    parts = [np.load(io.BytesIO(job_dir.read_bytes(_part(rank, number)))) for rank in range(num_ranks)]
    outputs = np.fmax.reduce(parts)  # a row is a number in one part and NaN in all others
    assert not np.isnan(outputs).any(), "a row was predicted by no rank"
    of_type = task_type(task)
    columns = {"index": table["index"]}
    columns |= {name: table[name] for name in table.column_names if name not in ("index", "label")}
    columns |= of_type.prediction_columns(table, outputs)
    for file, content in of_type.prediction_files(table, outputs).items():
        job_dir.write_bytes(_file_of(file, name), content)
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    job_dir.write_bytes(_file_of(PREDICTIONS_FILE, name), buffer.getvalue())
    job_dir.remove(str(Path(_part(0, number)).parent))
    paths = {"predictions": job_dir.path_of(_file_of(PREDICTIONS_FILE, name))}
    if submission is not None:
        values = of_type.submission_values(outputs)
        lines = [f"{index}\t{value}\n" for index, value in enumerate(values)]
        job_dir.write_bytes(f"submission/{submission}", "".join(["index\tprediction\n", *lines]).encode())
        paths["submission"] = job_dir.path_of(f"submission/{submission}")
    return paths


def read_predictions(job_dir: JobDir, name: str) -> pa.Table:
    """Read a table that `write_predictions` has written. Raises: StorageError."""
    return pq.read_table(io.BytesIO(job_dir.read_bytes(name)))


def _file_of(file: str, split: str) -> str:
    """Return the name of a file of a split: `predictions-dev_mismatched.parquet`."""
    path = Path(file)
    return f"{path.stem}-{split}{path.suffix}" if split else file


def _part(rank: int, number: int) -> str:
    return f".parts-{number}/outputs-{rank}.npy"
