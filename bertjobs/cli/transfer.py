"""A download as it comes in: one line that is redrawn on a terminal, a line per tenth elsewhere."""

import sys

import click

_MIB = 1 << 20


class TransferLine:
    """Called with the bytes that are there and, where it is known, the bytes of the whole."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_terminal = sys.stderr.isatty()
        self._said_tenth = -1

    def __call__(self, num_bytes: int, total_bytes: int | None) -> None:
        is_done = num_bytes == total_bytes
        if self._is_terminal:
            click.echo(f"\r{self._text(num_bytes, total_bytes)}", nl=is_done, err=True)
            return
        tenth = 10 * num_bytes // total_bytes if total_bytes else num_bytes // (10 * _MIB)
        if tenth != self._said_tenth:
            self._said_tenth = tenth
            click.echo(self._text(num_bytes, total_bytes), err=True)

    def _text(self, num_bytes: int, total_bytes: int | None) -> str:
        if not total_bytes:
            return f"{self._name}: {num_bytes / _MIB:.1f} MiB"
        share = num_bytes / total_bytes
        return f"{self._name}: {share:4.0%} of {total_bytes / _MIB:.1f} MiB"
