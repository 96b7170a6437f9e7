"""A file of data on disk: a plain file, or a member of a zip archive that is read without unpacking it.

Knows bytes and lines, not what is in a line. Whatever is wrong with a file becomes a DataError that names it.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from bertjobs.errors import DataError
from bertjobs.text.json_lines import decode_line

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What `zipfile` raises for an archive that is cut short, altered, encrypted or compressed in another way."""
_DRIVE = re.compile(r"[A-Za-z]:")
_BOM = b"\xef\xbb\xbf"
_MAGIC = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip-compressed",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"SQLite": "an SQLite database",
}


@dataclass(frozen=True)
class SourceFile:
    """A file, or a member of an archive."""

    path: Path
    """The file on disk: the archive itself where there is a member."""
    member: str | None = None

    @property
    def suffix(self) -> str:
        """The ending, such as `.jsonl`, which tells the format."""
        return PurePosixPath(self.member).suffix if self.member else self.path.suffix

    def __str__(self) -> str:
        return f"{self.path}: {self.member}" if self.member else str(self.path)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open for reading bytes. Raises: DataError: missing, unreadable, empty, or a damaged archive."""
        with data_errors(self):
            if self.member is None:
                with self.path.open("rb") as stream:
                    yield stream
                return
            with open_archive(self.path) as archive, archive.open(self.member) as member:
                # The member's own line reading is several times slower.
                yield io.BufferedReader(member)  # type: ignore[type-var]

    def check_archive(self) -> None:
        """Read an archive's member to its end, where its checksum is compared; do nothing for a plain file.

        Raises: DataError: the archive is damaged.
        """
        if self.member is not None:
            with self.open() as stream:
                while stream.read(1 << 20):
                    pass

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield the lines without their ends, numbered from 1.

        Lines end at LF or CRLF only: a text may contain U+2028 and the like.

        Raises: DataError: empty, or not UTF-8, with the line and column of the first bad byte.
        """
        with self.open() as stream:
            number = 0
            for number, raw in enumerate(stream, start=1):
                if number == 1:
                    raw = raw.removeprefix(_BOM)
                    self._refuse_binary(raw)
                yield number, self._decode(raw, number)
            if number == 0:
                raise DataError(f"{self} is empty", hint="Give a file with rows (--data).")

    def _refuse_binary(self, first: bytes) -> None:
        kind = binary_kind(first) or ("a binary file" if b"\0" in first else None)
        if kind is not None:
            raise DataError(
                f"{self} is not text but {kind}", hint="Give a file in the task's format (--data)."
            )

    def _decode(self, raw: bytes, number: int) -> str:
        line, cause = decode_line(raw)
        if cause is not None:
            raise DataError(
                f"{self}, line {number}: {cause}", hint="Give a text file saved as UTF-8 (--data)."
            )
        return line


def binary_kind(content: bytes) -> str | None:
    """Return what a binary file is, by its first bytes; None where they are not of a known binary format."""
    return next((name for magic, name in _MAGIC.items() if content.startswith(magic)), None)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive for reading and refuse one whose members point outside of it.

    Raises: DataError: truncated, tampered with, encrypted, or with paths such as `../x`.
    """
    with data_errors(SourceFile(path)), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts or _DRIVE.match(name):
                raise DataError(
                    f"{path}: the member {name!r} points outside of the archive",
                    hint="Do not use this archive; fetch it again from its official address (data get).",
                )
        yield archive


@contextmanager
def data_errors(source: SourceFile) -> Iterator[None]:
    """Turn errors of the system and of `zipfile` about a file into a DataError."""
    try:
        yield
    except _DAMAGED as e:
        raise DataError(
            f"{source}: the archive is damaged or cut short ({e})",
            hint="Fetch it again, or give another file (--data).",
        ) from e
    except FileNotFoundError as e:
        raise DataError(f"{source} does not exist", hint="Give the path of the data (--data).") from e
    except OSError as e:
        raise DataError(f"{source} cannot be read: {e.strerror or e}", hint="Check --data.") from e
