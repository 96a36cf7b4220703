"""`image_urls.csv`: where the pictures of the items are, read as they are needed."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from recbole_sda.errors import SDAError

IMAGE_URLS = "image_urls.csv"
_HEADER = ["item_id", "url"]


class Urls(Protocol):
    """The URLs of each item, in order of preference: a dict, or a file that is read as it is needed."""

    def __len__(self) -> int: ...

    def items(self) -> Iterable[tuple[str, Sequence[str]]]: ...


class UrlFile:
    """`image_urls.csv`: a row for each URL, the rows of an item together, the preferred URL first."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise SDAError(f"{path} does not exist; the script that made the dataset writes it when it knows URLs")
        self.path = path

    def __len__(self) -> int:
        return sum(1 for _ in self.items())

    def items(self) -> Iterator[tuple[str, list[str]]]:
        for item, rows in itertools.groupby(self._rows(), key=lambda row: row[0]):
            yield item, [url.strip() for _, url in rows if url.strip()]

    def _rows(self) -> Iterator[list[str]]:
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            try:
                if next(reader, None) != _HEADER:
                    raise SDAError(f"{self.path}: its first line is not {','.join(_HEADER)}; write it so")
                for row in reader:
                    if len(row) != len(_HEADER):
                        raise SDAError(f"{self.path}: line {reader.line_num} has {len(row)} fields instead of 2")
                    yield row
            except (csv.Error, UnicodeDecodeError) as error:
                raise SDAError(f"{self.path}: line {reader.line_num} cannot be read: {error}") from error


def write_urls(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write (item id, URL) rows as `UrlFile` reads them."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEADER)
        writer.writerows(rows)
