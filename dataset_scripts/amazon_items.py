"""The metadata of the items that were kept: streamed once, parsed only where an item is wanted, spooled to disk.

Metadata files are the larger ones and name many more items than are kept. A row's id is looked for in its bytes;
only rows of wanted items are parsed, cleaned and written to a temporary file, and memory holds their positions.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from amazon_formats import FORMATS, ITEM_FIELDS, Format, ItemRow, check_release, parse_row  # beside this file
from raw_lines import BadLines, read_blocks

from recbole_sda.errors import SDAError

_NOWHERE = -1


class Items:
    """Texts and pictures' addresses of the wanted items, on disk.

    Where an item has several rows, the one with the most fields filled is taken, of equals the first.

    Attributes:
        rows: rows of metadata read.
        strangers: rows of items that are not wanted.
        repeated: further rows of wanted items.
    """

    def __init__(self, tokens: pa.Array, spool: BinaryIO) -> None:
        self._tokens = tokens
        self._codes = {token.encode(): code for code, token in enumerate(tokens.to_pylist())}
        self._spool = spool
        self._positions = np.full(len(tokens), _NOWHERE, dtype=np.int64)
        self._filled = np.zeros((len(tokens), len(ITEM_FIELDS) + 1), dtype=bool)  # the last: pictures
        self._digests = np.zeros(len(tokens), dtype=np.uint64)
        self._differs = np.zeros(len(tokens), dtype=bool)
        self.rows = self.strangers = self.repeated = 0

    def __len__(self) -> int:
        """Wanted items."""
        return len(self._tokens)

    @property
    def found(self) -> int:
        """Wanted items that have a row."""
        return int(np.count_nonzero(self._positions != _NOWHERE))

    @property
    def differing(self) -> int:
        """Items whose rows say different things."""
        return int(np.count_nonzero(self._differs))

    @property
    def pictured(self) -> int:
        """Items with a picture's address."""
        return int(np.count_nonzero(self._filled[:, -1]))

    def fields(self) -> dict[str, int]:
        """Items in which a field says something, for each of `ITEM_FIELDS`."""
        return dict(zip(ITEM_FIELDS, self._filled[:, :-1].sum(axis=0).tolist(), strict=True))

    def wants(self, token: bytes) -> bool:
        return token in self._codes

    def add(self, token: bytes, row: ItemRow) -> None:
        """Take a row of a wanted item, unless a better one is there."""
        code = self._codes[token]
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        digest = int.from_bytes(blake2b(line, digest_size=8).digest(), "little")
        if self._positions[code] != _NOWHERE:
            self.repeated += 1
            self._differs[code] |= self._digests[code] != digest
            if sum(row.filled) <= np.count_nonzero(self._filled[code]):
                return
        self._positions[code] = self._spool.seek(0, 2)
        self._filled[code], self._digests[code] = row.filled, digest
        self._spool.write(line)

    def __iter__(self) -> Iterator[tuple[str, ItemRow]]:
        """Yield (item id, its row) for the items that have one, in the order of the wanted ids."""
        for code in np.flatnonzero(self._positions != _NOWHERE).tolist():
            yield self._tokens[code].as_py(), self._row(code)

    def get(self, token: str) -> ItemRow | None:
        """The row of an item; None if it is not wanted or has none."""
        code = self._codes.get(token.encode())
        return None if code is None or self._positions[code] == _NOWHERE else self._row(code)

    def _row(self, code: int) -> ItemRow:
        self._spool.seek(self._positions[code])
        texts, urls = json.loads(self._spool.readline())
        return ItemRow(tuple(texts), tuple(urls))


@contextmanager
def read_items(path: Path, year: int, tokens: pa.Array, bad: BadLines, spool_folder: Path) -> Iterator[Items]:
    """Yield the metadata of the items `tokens`; their texts are on disk in `spool_folder` until the block ends.

    Raises:
        SDAError: the file is damaged, of another release, or names none of the items.
    """
    check_release(path, year, metadata=True)
    with spool_in(spool_folder) as spool:
        items = Items(tokens, spool)
        try:
            for number, block in read_blocks(path):
                _add_block(path, number, block, FORMATS[year], items, bad)
        except OSError as error:
            raise SDAError(f"{spool_folder} cannot take the texts: {error.strerror}; make room there") from error
        if not items.found:
            raise SDAError(
                f"{path}: none of its {items.rows:,} rows is about one of the {len(items):,} items wanted, "
                f"such as {tokens[0].as_py()!r}; name the metadata of the same category"
            )
        yield items


def spool_in(folder: Path) -> BinaryIO:
    """A temporary file in `folder`, which is made where it is missing.

    Raises:
        SDAError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise SDAError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error


def _add_block(path: Path, number: int, block: bytes, layout: Format, items: Items, bad: BadLines) -> None:
    names_id = re.compile(rb"""%s["']\s*:\s*["']([^"']*)""" % layout.item_id.encode())
    for position, line in enumerate(block.split(b"\n"), start=number):
        line = line.strip()
        if not line:
            continue
        items.rows += 1
        named = names_id.findall(line)
        # any field may hold such bytes, so a wanted id only says that the row is worth parsing
        if named and line.endswith(b"}") and not any(map(items.wants, named)):
            items.strangers += 1
            continue
        try:
            row = parse_row(line)
            token = row.get(layout.item_id)
            if not isinstance(token, str):
                raise ValueError(f"no field {layout.item_id!r}, only {', '.join(map(str, row))[:200]}")
        except ValueError as error:
            bad.add(path, position, str(error))
            continue
        if items.wants(token.encode()):
            items.add(token.encode(), layout.read_item(row))
        else:
            items.strangers += 1
