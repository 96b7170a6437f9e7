"""The trials of a running search, as the queue hears of them, as lines of a table."""

from collections.abc import Iterable, Mapping
from typing import Any

from bertjobs.cli.words import number, printable


def header_of(paths: Iterable[str]) -> list[str]:
    """Name the columns up to the metric; a parameter is called by its leaf."""
    return ["TRIAL", *(path.rpartition(".")[2].upper().replace("_", " ") for path in paths), "EPOCH"]


def live_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the table that a running search reports."""
    rows = report["trials"]
    paths = list(rows[0]["values"]) if rows else []
    lines = [
        [
            str(row["number"]),
            *(printable(number(value)) for value in row["values"].values()),
            f"{row['epoch']:.2f}",
            "-" if row["value"] is None else f"{row['value']:.4f}",
            str(row["state"]),
        ]
        for row in rows
    ]
    return [*header_of(paths), str(report["metric"]).upper(), "STATE"], lines
