"""Read one JSON object a line, as SNLI publishes it and most others do."""

import json
from collections.abc import Iterator
from typing import Any

from bertjobs.text.rows import BadRow, Row
from bertjobs.text.source_file import SourceFile
from bertjobs.text.tasks import Columns


def read_json_lines(source: SourceFile, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows; blank lines are passed over."""
    for number, line in source.lines():
        if line and not line.isspace():
            yield _row(number, line, columns)


def _row(number: int, line: str, columns: Columns) -> Row | BadRow:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as e:
        return BadRow(number, f"broken JSON ({e})")
    if not isinstance(fields, dict):
        return BadRow(number, f"expected a JSON object, but found {line[:40]!r}")
    texts: list[str | None] = [None, None]
    for i, name in enumerate((columns.text_a, columns.text_b)):
        if name is None:
            continue
        if name not in fields:
            return BadRow(number, _no_field(name, fields))
        if not isinstance(fields[name], str):
            return BadRow(number, f"the field {name!r} is not a text but {json.dumps(fields[name])[:40]}")
        texts[i] = fields[name]
    assert texts[0] is not None
    return Row(number, texts[0], texts[1], label_text(fields.get(columns.label)))


def label_text(value: Any) -> str | None:
    """Return a label cell as the text that the task's `label_values` are compared with; None where empty."""
    if value is None or value == "" or value != value:  # NaN, pandas' word for an empty cell
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas turns a column of 0 and 1 with a gap into 0.0 and 1.0
    return value.strip() if isinstance(value, str) else str(value)


def _no_field(name: str, fields: dict[str, Any]) -> str:
    return f"there is no field {name!r}; the row has {', '.join(fields) or 'none'}"
