"""`images/manifest.csv`: what became of each item's picture, written so that a kill at any moment costs little.

A row is appended as soon as an item is settled, and before its picture takes its name; so a file that stands
without a row is the user's own, and a row without its file is asked again. The last row of an item counts.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from recbole_sda.catalog.atomic import one_line
from recbole_sda.errors import SDAError

MANIFEST = "manifest.csv"
OK, FAILED, LATER = "ok", "failed", "later"  # settled with a picture, settled without one, to be asked again


class Row(NamedTuple):
    item_id: str
    url: str  # the last that was asked
    status: str
    cause: str = ""
    bytes: int | str = ""
    sha256: str = ""
    file: str = ""


@dataclass
class Summary:
    """How many items have a picture, and why the others have none."""

    items: int
    there: int = 0
    fetched: int = 0
    fetched_bytes: int = 0
    failed: Counter = field(default_factory=Counter)  # kind of failure -> items
    later: Counter = field(default_factory=Counter)

    @property
    def status(self) -> int:
        """The exit status for scripts."""
        if self.later:
            return 3
        return 1 if self.failed and not self.there + self.fetched else 0

    def count(self, row: Row) -> None:
        if row.status == OK:
            self.fetched += 1
            self.fetched_bytes += row.bytes
        else:
            {FAILED: self.failed, LATER: self.later}[row.status][row.cause.partition(": ")[0]] += 1

    def __str__(self) -> str:
        lines = [
            f"{self.items:,} items with URLs: {self.there:,} pictures were there, "
            f"{self.fetched:,} fetched ({self.fetched_bytes / 1e6:,.1f} MB)"
        ]
        for causes, what in (
            (self.failed, "failed for good (--retry-failed asks again)"),
            (self.later, "to be asked again (run the same command once more)"),
        ):
            if causes:
                lines.append(f"{causes.total():,} {what}:")
                by_count = sorted(causes.items(), key=lambda pair: (-pair[1], pair[0]))
                lines += [f"{count:9,}  {cause}" for cause, count in by_count]
        return "\n  ".join(lines)


class Manifest:
    """The open file, and the failures that it remembers; use it as a context."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failures: dict[str, Row] = {}  # item -> its row, if that is a failure for good
        self._unsettled: set[str] = set()  # items with a row that a later one may follow
        self._repeats = False
        if path.exists():
            _drop_torn_end(path)
            self._read()
        new = not path.exists() or not path.stat().st_size
        self._file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115 (closed by __exit__)
        self._writer = csv.writer(self._file, lineterminator="\n")
        if new:
            self._writer.writerow(Row._fields)
            self._file.flush()

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(self, kind, *_) -> None:
        self._file.close()
        if kind is None and self._repeats:
            self._keep_last_rows()

    def append(self, row: Row) -> None:
        self._writer.writerow([one_line(str(value)) for value in row])
        self._file.flush()
        self._repeats |= row.item_id in self._unsettled

    def _read(self) -> None:
        for row in _rows(self.path):
            self._repeats |= row.item_id in self._unsettled
            self.failures.pop(row.item_id, None)
            if row.status == FAILED:
                self.failures[row.item_id] = row
            if row.status != OK or not (self.path.parent / row.file).is_file():
                self._unsettled.add(row.item_id)

    def _keep_last_rows(self) -> None:
        last = {row.item_id: number for number, row in enumerate(_rows(self.path))}
        new = self.path.with_name(f".{self.path.name}.part")
        with open(new, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Row._fields)
            writer.writerows(row for number, row in enumerate(_rows(self.path)) if last[row.item_id] == number)
        os.replace(new, self.path)


def _rows(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        try:
            if tuple(next(reader, Row._fields)) != Row._fields:
                raise SDAError(f"{path}: its first line is not {','.join(Row._fields)}; move the file away")
            for fields in reader:
                if len(fields) != len(Row._fields):
                    raise csv.Error(f"{len(fields)} fields instead of {len(Row._fields)}")
                yield Row(*fields)
        except (csv.Error, UnicodeDecodeError) as error:
            raise SDAError(f"{path}: line {reader.line_num} is damaged ({error}); move the file away") from error


def _drop_torn_end(path: Path) -> None:
    """Cut off what a kill or a full disk left of a last line; no field holds a line break."""
    with open(path, "r+b") as file:
        file.seek(0, os.SEEK_END)
        end = file.tell()
        file.seek(max(0, end - 2**20))  # a line is far shorter
        tail = file.read()
        file.truncate(end - len(tail) + tail.rfind(b"\n") + 1)
