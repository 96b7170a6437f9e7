"""Questions in rows: the same table as from SQuAD's own files, and what is wrong with a row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.errors import DataError
from bertjobs.text.datasets.read_split import Split
from bertjobs.text.datasets.squad import SQUAD, SQUAD_V2

Read = Callable[..., Split]


def rows_of(table: pa.Table, *, as_columns: bool) -> list[dict[str, Any]]:
    """Return the rows of a split with their answers as a list, or as `datasets` has them."""
    rows = []
    for row in table.to_pylist():
        texts, starts = row["answers"], row["answer_starts"]
        answers: Any = {"text": texts, "answer_start": starts}
        if not as_columns:
            pairs = zip(texts, starts, strict=True)
            answers = [{"text": text, "answer_start": start} for text, start in pairs]
        rows.append(
            {"id": row["id"], "question": row["text_a"], "context": row["text_b"], "answers": answers}
        )
    return rows


@pytest.mark.parametrize("as_columns", [False, True])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_rows_give_the_table_of_squads_own_files(
    tmp_path: Path, sample: Path, read: Read, ending: str, as_columns: bool
) -> None:
    official = read(SQUAD_V2, sample / "squad", split="dev").table
    rows = rows_of(official, as_columns=as_columns)
    path = tmp_path / f"dev.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert read(SQUAD_V2, None, split=str(path)).table.equals(official)


GOOD = {
    "id": "q1",
    "question": "Who?",
    "context": "The sea.",
    "answers": [{"text": "sea", "answer_start": 4}],
}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "q2"', "question in line 2: broken JSON"),
        ("[]", "question in line 2: expected a JSON object, but found '[]'"),
        (json.dumps({**GOOD, "id": None}), "question in line 2: the id is not a text but null"),
        (json.dumps(GOOD), "question q1: the id occurs twice in the file"),
        (
            json.dumps({**GOOD, "id": "q2", "answers": {"text": ["sea"], "answer_start": [5]}}),
            "question q2: the answer 'sea' is not at its offset 5, where 'ea.' is",
        ),
        (
            json.dumps({**GOOD, "id": "q2", "answers": {"text": ["sea"], "answer_start": []}}),
            "question q2: answers is not a list but",
        ),
        (
            json.dumps({**GOOD, "id": "q2", "answers": []}),
            "question q2: it is_impossible, which the task does not have; SQuAD v2.0 is squad_v2",
        ),
    ],
)
def test_a_broken_row_is_refused_with_its_file_and_line_or_id(
    tmp_path: Path, read: Read, row: str, message: str
) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{row}\n")
    with pytest.raises(DataError) as raised:
        read(SQUAD, None, split=str(path))
    assert raised.value.message.startswith(f"{path}, {message}")


def test_a_damaged_parquet_file_is_refused(tmp_path: Path, read: Read) -> None:
    (tmp_path / "dev.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=r"dev\.parquet"):
        read(SQUAD, None, split=str(tmp_path / "dev.parquet"))
