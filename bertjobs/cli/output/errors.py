"""The answer of `inspect` as text: what a model does worst."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from bertjobs.cli.output.formatting import format_number, printable
from bertjobs.cli.output.render import print_line, print_table

_NO_ANSWER = "(no answer)"


def print_error_report(report: Mapping[str, Any]) -> None:
    """Print errors by class and by length, confusions, and the worst rows."""
    loss, error = _names(report["type"])
    print_line(
        f"{report['job']}: {report['rows']:,} rows, mean {error} {format_number(report['error'])}, "
        f"mean {loss} {format_number(report['mean_loss'])}"
    )
    header = ["ROWS", error.upper(), loss.upper()]
    _print_part("Per class", ["  LABEL", *header], [(str(p["label"]), p) for p in report["per_class"]])
    lengths = [(_range(p), p) for p in report["per_length"]]
    _print_part("Per length in words", ["  LENGTH", *header], lengths)
    if report["confusions"]:
        click.secho("\nConfusions", bold=True)
        rows = [
            [f"  {printable(str(c['label']))}", printable(str(c["prediction"])), f"{c['rows']:,}"]
            for c in report["confusions"]
        ]
        print_table(["  LABEL", "PREDICTION", "ROWS"], rows)
    if report["worst"]:
        click.secho(f"\nWorst, by {loss}", bold=True)
    for row in report["worst"]:
        print_line(
            f"  {format_number(row['loss'])}  row {row['index']}: label {_shown(row['label'])}, "
            f"predicted {_shown(row['prediction'])}"
        )
        for name, text in row["texts"].items():
            print_table(None, [["", f"  {name}", printable(text)]])


def _print_part(title: str, header: list[str], parts: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    if not parts:
        return
    click.secho(f"\n{title}", bold=True)
    rows = [
        [f"  {printable(name)}", f"{p['rows']:,}", f"{p['error']:.4f}", f"{p['mean_loss']:.4f}"]
        for name, p in parts
    ]
    print_table(header, rows)


def _range(part: Mapping[str, Any]) -> str:
    return str(part["to"]) if part["from"] == part["to"] else f"{part['from']}-{part['to']}"


def _names(type_: str) -> tuple[str, str]:
    """Return what loss and error are called for a type of task."""
    if type_ == "regression":
        return "squared error", "absolute error"
    return ("1 - F1", "inexact ratio") if type_ == "span" else ("loss", "error ratio")


def _shown(value: Any) -> str:
    text = printable(format_number(value)) if isinstance(value, float) else printable(str(value))
    return text or _NO_ANSWER
