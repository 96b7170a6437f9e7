"""Lines of bytes as text, and the text in a field of a JSON line: what all readers of lines share.

Each function returns what it found and what is wrong with the line, None where nothing is: it is the caller
who refuses a bad line or skips it. Imports nothing slow.
"""

import json
from typing import Any


def decode_line(raw: bytes) -> tuple[str, str | None]:
    """Return a line as text, without its line end."""
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as e:
        return "", f"byte {raw[e.start]:#04x} at column {e.start + 1} is not UTF-8"
    if "\0" in line:
        return "", "contains a zero byte, so it is not text"
    return line.removesuffix("\n").removesuffix("\r"), None


def json_text(line: str, field: str) -> tuple[str, str | None]:
    """Return the text in a field, which a user names by `--column`, of a JSON object."""
    fields, cause = json_object(line)
    if cause is None and field not in fields:
        cause = f"there is no field {field!r} (--column); the row has {', '.join(fields) or 'none'}"
    return ("", cause) if cause is not None else field_text(fields, field)


def json_object(line: str) -> tuple[dict[str, Any], str | None]:
    """Return the fields of a JSON object."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as e:
        return {}, f"broken JSON ({e})"
    if not isinstance(fields, dict):
        return {}, f"expected a JSON object, but found {line[:40]!r}"
    return fields, None


def field_text(fields: dict[str, Any], field: str) -> tuple[str, str | None]:
    """Return the text in a field that is there."""
    value = fields[field]
    if not isinstance(value, str):
        return "", f"the field {field!r} is not a text but {json.dumps(value)[:40]}"
    return value, None
