"""The file index: which files were checked, and what was found, so that the next run decodes only new ones.

A CSV file: a header with the format, the kind of file, the folder and the limit; a row a file with the state
it was checked in, the verdict and the size; and a seal, the sha256 of all lines before it. An index that is
cut off, damaged, or made for another folder, limit or format is ignored, and so is a row whose file is in
another state now.
"""

import csv
import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TITLE = "recbole_sda files 3"  # another number for other checks: verdicts of the old ones are not reused
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}  # file names are any bytes


class IndexHeader(NamedTuple):
    """What the verdicts of an index hold for."""

    noun: str
    folder: str  # without links
    limit: str


class FileCheck(NamedTuple):
    """The verdict on one file as it was in `state`."""

    state: tuple[int, int, int, int]  # as `file_state` gives it
    digest: str  # sha256 of the bytes, "" when refused
    problem: str  # "" when the file is good
    size: tuple[int, int]  # of what it decodes to, (0, 0) when refused


def file_state(path: Path) -> tuple[int, int, int, int]:
    """What changes with a file's content: inode, size and the times of its last change, in nanoseconds.

    A copy or an archive can set the modification time back; the time of the status change it cannot.
    """
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1, -1, -1)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_index(path: Path, header: IndexHeader) -> dict[str, FileCheck]:
    """The checks in `path`; none when it is missing, damaged, or has another header."""
    checks: dict[str, FileCheck] = {}
    seal = hashlib.sha256()
    try:
        with open(path, **_TEXT) as file:
            first = file.readline()
            if first != _csv_line(_title_row(header)):
                return {}
            seal.update(_bytes(first))
            for line in file:
                row = next(csv.reader([line]))
                if row[0] == "" and row[1] == seal.hexdigest():
                    return checks
                name, *numbers, digest, problem = row
                *state, first_size, second_size = map(int, numbers)
                checks[name] = FileCheck(tuple(state), digest, problem, (first_size, second_size))
                seal.update(_bytes(line))
    except (OSError, ValueError, IndexError, StopIteration, csv.Error):
        return {}
    return {}  # the seal at its end is missing: cut off


def write_index(path: Path, header: IndexHeader, checks: dict[str, FileCheck]) -> None:
    """Write `checks` to `path`, whole or not at all; failing is only a warning."""
    path = Path(path)
    seal = hashlib.sha256()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(handle, "w", **_TEXT) as file:
            for row in _rows(header, checks):
                line = _csv_line(row)
                seal.update(_bytes(line))
                file.write(line)
            file.write(_csv_line(["", seal.hexdigest()]))
        os.replace(temporary, path)
    except OSError as error:
        warnings.warn(
            f"{path}: the index of checked {header.noun} cannot be written ({error.strerror}); "
            "the next run checks them all again",
            stacklevel=2,
        )
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)


def _rows(header: IndexHeader, checks: dict[str, FileCheck]) -> Iterator[list[str]]:
    yield _title_row(header)
    for name in sorted(checks):
        if "\n" not in name and "\r" not in name:  # one row a line
            state, digest, problem, size = checks[name]
            yield [name, *map(str, state), *map(str, size), digest, problem]


def _title_row(header: IndexHeader) -> list[str]:
    return [_TITLE, header.noun, ascii(header.folder), header.limit]  # ascii: one line, whatever the name


def _csv_line(row: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(row)
    return buffer.getvalue()


def _bytes(line: str) -> bytes:
    return line.encode(_TEXT["encoding"], _TEXT["errors"])
