"""Predicted rows as a file: `.csv`, `.jsonl` or `.parquet`; and as the document of `--json`."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.runs.encode.vector_files import check_output_file, write_output_file
from bertjobs.runs.predict.predict_rows import PredictedRows


def check_prediction_file(path: Path) -> None:
    """Check before any work that the file can be written. Raises: ConfigError, StorageError."""
    check_output_file(path, suffixes=tuple(_WRITERS))


def write_prediction_file(path: Path, found: PredictedRows) -> None:
    """Write the given columns and those of the predictions. Raises: StorageError: no space, no permission."""
    write_output_file(path, _WRITERS[path.suffix](found.table))


def to_json(found: PredictedRows, *, model: str, top_k: int | None) -> dict[str, Any]:
    """Return the document of `--json`. top_k: how many candidates of each row; None: all."""
    predictions = found.table["prediction"].to_pylist()
    rows = zip(found.texts, found.ranked, found.shown(top_k=top_k), predictions, strict=True)
    return {
        "model": model,
        "task": {"name": found.task.name, "type": found.task.type},
        "predictions": [
            {
                "texts": dict(zip(found.task.columns.texts, texts, strict=True)),
                "prediction": prediction,
                "probability": None if isinstance(prediction, list) else ranked[0].probability,
                "candidates": [_candidate(value) for value in shown],
            }
            | ({} if found.null_odds is None else {"null_odds": found.null_odds[number]})
            | ({"start": ranked[0].start, "end": ranked[0].end} if found.task.type == "span" else {})
            for number, (texts, ranked, shown, prediction) in enumerate(rows)
        ],
    }


def _candidate(value: Any) -> dict[str, Any]:
    entry = {"value": value.value, "probability": value.probability}
    return entry if value.start is None else entry | {"start": value.start, "end": value.end}


def _csv(table: pa.Table) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows(
        [
            json.dumps(cell, ensure_ascii=False, default=str) if isinstance(cell, (list, dict)) else cell
            for cell in row
        ]
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True)
    )
    return text.getvalue().encode()


def _json_lines(table: pa.Table) -> bytes:
    lines = [json.dumps(row, ensure_ascii=False, default=str) for row in table.to_pylist()]
    return "".join(f"{line}\n" for line in lines).encode()


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


_WRITERS = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
