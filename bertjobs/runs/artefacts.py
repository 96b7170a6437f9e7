"""`bertjobs.json`, which makes a folder of weights a trained artefact: its task (none where it was only
pretrained) and how texts were cut. Hugging Face's own files stand beside it and know nothing of it.

Predictions of a split as Parquet: each rank collects its rows, the driver puts the texts beside them.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import bertjobs
from bertjobs.config.sections import TextSection
from bertjobs.errors import ModelError
from bertjobs.storage import JobDir
from bertjobs.text.datasets.task import Task

ARTEFACT_FILE = "bertjobs.json"


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What a job knows of the model it made."""

    task: Task | None
    """None where it was pretrained: there is no classifier then."""
    text: TextSection
    """How texts were cut; of a pretrained model only `max_len` was used."""
    trained_by: str
    """The job that made it."""

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
        raise ModelError(f"{path} is damaged: {e}.", hint="Train again, or give another --model.") from e


PREDICTIONS_FILE = "predictions.parquet"


class Collector:
    """The probabilities of one rank's rows."""

    def __init__(self, num_rows: int, *, num_labels: int) -> None:
        self.probabilities = np.full((num_rows, num_labels), np.nan, dtype=np.float32)
        """NaN where another rank predicts."""

    def add(self, rows: np.ndarray, probabilities: np.ndarray) -> None:
        """Keep the probabilities (rows, labels) of these rows of the table."""
        self.probabilities[rows] = probabilities

    def write(self, job_dir: JobDir, *, rank: int) -> None:
        """Put this rank's part where the driver finds it."""
        buffer = io.BytesIO()
        np.save(buffer, self.probabilities)
        job_dir.write_bytes(_part(rank), buffer.getvalue())


def write_predictions(job_dir: JobDir, table: pa.Table, *, task: Task, workers: int) -> str:
    """Join the ranks' parts with texts and labels, publish them, and return where they are.

    Columns: index, text_a, text_b (pairs), label (null where a row has none), prediction, and the probability
    of each label as `p_<label>`.
    """
    parts = [np.load(io.BytesIO(job_dir.read_bytes(_part(rank)))) for rank in range(workers)]
    probabilities = np.fmax.reduce(parts)  # a row is a number in one part and NaN in all others
    assert not np.isnan(probabilities).any(), "a row was predicted by no rank"
    labels = np.asarray(task.labels, dtype=object)
    truth = table["label"].to_numpy()
    columns = {name: table[name] for name in ("index", "text_a", "text_b") if name in table.column_names}
    columns["label"] = pa.array([labels[y] if y >= 0 else None for y in truth], pa.string())
    columns["prediction"] = pa.array(labels[probabilities.argmax(axis=1)], pa.string())
    columns |= {f"p_{label}": probabilities[:, i] for i, label in enumerate(task.labels)}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    job_dir.write_bytes(PREDICTIONS_FILE, buffer.getvalue())
    job_dir.remove(str(Path(_part(0)).parent))
    return job_dir.path_of(PREDICTIONS_FILE)


def _part(rank: int) -> str:
    return f".parts/probabilities-{rank}.npy"
