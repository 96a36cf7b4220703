"""What was refused: one record a file, with one line of reason, and the table that lists them."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from recbole_sda.errors import SDAError


class Skipped(NamedTuple):
    """A file, or a row of a file of vectors, that cannot serve; its item counts as without the modality."""

    item: str  # token
    modality: str
    file: str  # the name inside the modality's folder, printable
    reason: str  # one printable line


def write_skipped(path: str | Path, skipped: Iterable[Skipped]) -> None:
    """Write `skipped` to the CSV file `path`, sorted: the same records give the same bytes."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(Skipped._fields)
        writer.writerows(sorted(skipped))


def read_skipped(path: str | Path) -> list[Skipped]:
    """The records of a file that `write_skipped` wrote, in its order."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
            if header == list(Skipped._fields):
                return [Skipped(*row) for row in rows]
    except OSError as error:
        raise SDAError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error):  # not UTF-8, empty, or rows of another width
        pass
    raise SDAError(f"{path} is no list of skipped files: it needs the columns {', '.join(Skipped._fields)}")


def printable(text: str) -> str:
    """`text` with escapes for what does not print: line breaks, terminal codes, bytes that are no UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
