"""The vectors of a few texts as a file: `.npy`, `.parquet` or `.json`."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.errors import ConfigError, StorageError
from bertjobs.runs.encode.embed_texts import TextEmbedding
from bertjobs.storage import write_atomically


def check_vector_file(path: Path) -> None:
    """Check before any work that the file can be written. Raises: ConfigError, StorageError."""
    check_output_file(path, suffixes=tuple(_WRITERS))


def check_output_file(path: Path, *, suffixes: Sequence[str]) -> None:
    """Check before any work that a file can be written.

    Raises: ConfigError: the suffix is not known. StorageError: its folder does not exist.
    """
    if path.suffix not in suffixes:
        raise ConfigError(
            f"--output {path}: {path.suffix or 'no suffix'} is not a known format",
            hint=f"Give a name that ends in one of {', '.join(suffixes)}.",
        )
    if not path.parent.is_dir() or path.is_dir():
        raise StorageError(
            f"--output {path}: {'it is a folder' if path.is_dir() else 'its folder does not exist'}",
            hint="Give the name of a file in a folder that exists.",
        )


def write_vector_file(path: Path, found: Sequence[TextEmbedding]) -> None:
    """Write all vectors, in the order of the texts. Raises: StorageError: no space, no permission."""
    write_output_file(path, _WRITERS[path.suffix](found))


def write_output_file(path: Path, content: bytes) -> None:
    """Write what `--output` asks for. Raises: StorageError: no space, no permission."""
    try:
        write_atomically(path, content)
    except OSError as e:
        raise StorageError(f"--output {path}: {e.strerror}", hint="Give another file.") from e


def to_json(found: Sequence[TextEmbedding]) -> dict[str, Any]:
    """Return the document of `--json`."""
    return {
        "dim": len(found[0].vectors[0].vector),
        "texts": [
            {
                "text": one.text,
                "tokens": one.tokens,
                "vectors": [
                    {"token": v.token, "position": v.position, "vector": v.vector.tolist()}
                    for v in one.vectors
                ],
            }
            for one in found
        ],
    }


def _json(found: Sequence[TextEmbedding]) -> bytes:
    return json.dumps(to_json(found), ensure_ascii=False).encode() + b"\n"


def _npy(found: Sequence[TextEmbedding]) -> bytes:
    """Return the matrix (vectors, D), without the texts."""
    buffer = io.BytesIO()
    np.save(buffer, np.stack([v.vector for one in found for v in one.vectors]))
    return buffer.getvalue()


def _parquet(found: Sequence[TextEmbedding]) -> bytes:
    rows = [(number, one.text, v) for number, one in enumerate(found) for v in one.vectors]
    flat = np.concatenate([v.vector for _, _, v in rows])
    table = pa.table(
        {
            "number": pa.array([number for number, _, _ in rows], pa.int64()),
            "text": pa.array([text for _, text, _ in rows], pa.string()),
            "token": pa.array([v.token for _, _, v in rows], pa.string()),
            "position": pa.array([v.position for _, _, v in rows], pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat), len(flat) // len(rows)),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


_WRITERS = {".npy": _npy, ".parquet": _parquet, ".json": _json}
