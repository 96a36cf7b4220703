"""The picture index: which files were checked, and what was found, so that the next run decodes only new ones.

A CSV file: a header with the format, the picture folder and the pixel limit; a row a file with the state it
was checked in; and a seal, the sha256 of all lines before it. An index that is cut off, damaged, or made for
another folder, limit or format is ignored, and so is a row whose file is in another state now.
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

_TITLE = "recbole_sda pictures 2"  # another number for other checks: verdicts of the old ones are not reused


class PictureCheck(NamedTuple):
    """The verdict on one file as it was in `state`."""

    state: tuple[int, int, int, int]  # as `file_state` gives it
    digest: str  # sha256 of the bytes, "" when refused
    problem: str  # "" when it is a good picture


def file_state(path: Path) -> tuple[int, int, int, int]:
    """What changes with a file's content: inode, size and the times of its last change, in nanoseconds.

    A copy or an archive can set the modification time back; the time of the status change it cannot.
    """
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1, -1, -1)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_index(path: Path, folder: Path, max_pixels: int) -> dict[str, PictureCheck]:
    """The checks in `path`; none when it is missing, damaged, or of another folder or pixel limit."""
    checks: dict[str, PictureCheck] = {}
    seal = hashlib.sha256()
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header = file.readline()
            if header != _csv_line(_header(folder, max_pixels)):
                return {}
            seal.update(header.encode())
            for line in file:
                row = next(csv.reader([line]))
                if row[0] == "" and row[1] == seal.hexdigest():
                    return checks
                name, *state, digest, problem = row
                checks[name] = PictureCheck(tuple(map(int, state)), digest, problem)
                seal.update(line.encode())
    except (OSError, ValueError, IndexError, StopIteration, csv.Error):
        return {}
    return {}  # the seal at its end is missing: cut off


def write_index(path: Path, folder: Path, max_pixels: int, checks: dict[str, PictureCheck]) -> None:
    """Write `checks` of the pictures in `folder` to `path`, whole or not at all; failing is only a warning."""
    path = Path(path)
    seal = hashlib.sha256()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(handle, "w", encoding="utf-8", newline="") as file:
            for row in _rows(folder, max_pixels, checks):
                line = _csv_line(row)
                seal.update(line.encode())
                file.write(line)
            file.write(_csv_line(["", seal.hexdigest()]))
        os.replace(temporary, path)
    except OSError as error:
        warnings.warn(
            f"{path}: the picture index cannot be written ({error.strerror}); "
            "the next run checks every picture again",
            stacklevel=2,
        )
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)


def _header(folder: Path, max_pixels: int) -> list[str]:
    return [_TITLE, ascii(os.path.realpath(folder)), str(max_pixels)]  # ascii: one line, whatever the name


def _rows(folder: Path, max_pixels: int, checks: dict[str, PictureCheck]) -> Iterator[list[str]]:
    yield _header(folder, max_pixels)
    for name in sorted(checks):
        if "\n" not in name and "\r" not in name:  # one row a line
            state, digest, problem = checks[name]
            yield [name, *map(str, state), digest, problem]


def _csv_line(row: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(row)
    return buffer.getvalue()
