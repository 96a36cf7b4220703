"""Who rated what when, from a file of reviews or ratings of any size: block by block, four columns, no text.

A block goes through pyarrow, which skips the fields that are not asked for. A block that pyarrow cannot read, or
in which a value is missing, is read again line by line: that finds Python literals, numbers in quotes, and the
line to name in the error.
"""

import csv
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
from amazon_formats import FORMATS, Format, check_release, parse_row  # beside this file
from interactions import Interactions, TokenCodes
from raw_lines import BadLines, first_lines, read_blocks

from recbole_sda.catalog.atomic import MISSING_TOKENS
from recbole_sda.errors import SDAError

_SCHEMA = pa.schema(
    [("user", pa.string()), ("item", pa.string()), ("rating", pa.float32()), ("timestamp", pa.int64())]
)
_PART_BYTES = 1 << 20  # of a block, for each of pyarrow's threads
_MISSING = pa.array(sorted(MISSING_TOKENS))


def read_reviews(path: Path, year: int, bad: BadLines) -> Interactions:
    """All interactions of a file of reviews (JSON lines) or of ratings (csv), plain or gzipped.

    Args:
        path: the raw file.
        year: its release, 2014, 2018 or 2023.
        bad: what becomes of a line that cannot be read.

    Returns:
        Interactions in file order, timestamps in seconds.

    Raises:
        SDAError: the file is damaged, of another release, or holds no interaction.
    """
    check_release(path, year, metadata=False)
    layout = FORMATS[year]
    first_line = next(iter(first_lines(path, 1)), b"")
    reader = _JsonRows(layout) if first_line.lstrip()[:1] in b"{<" else _CsvRows(layout, first_line)
    users, items = TokenCodes(), TokenCodes()
    ratings, times = [], []
    for number, block in read_blocks(path):
        table = reader.read_block(block)
        if table is None:
            table = _read_lines(path, number, block, reader, bad)
        user, item, rating, timestamp = (column.combine_chunks() for column in table.columns)
        users.add(user.dictionary_encode())
        items.add(item.dictionary_encode())
        ratings.append(rating.to_numpy())
        times.append(timestamp.to_numpy())
    (user, user_tokens), (item, item_tokens) = users.finish(), items.finish()
    if not len(user):
        raise SDAError(f"{path} holds no interaction; {bad.note() or 'is it the right file?'}")
    timestamp = np.concatenate(times)
    if layout.ticks > 1:
        timestamp = timestamp / layout.ticks  # with its fraction: it orders what happened within a second
    return Interactions(user, item, timestamp, np.concatenate(ratings), user_tokens, item_tokens)


class _JsonRows:
    """Reviews: a JSON object a line."""

    def __init__(self, layout: Format) -> None:
        self.fields = layout.review_fields
        schema = pa.schema([(name, field.type) for name, field in zip(self.fields, _SCHEMA, strict=True)])
        self.parsing = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        self.reading = pa.json.ReadOptions(block_size=_PART_BYTES)

    def read_block(self, block: bytes) -> pa.Table | None:
        """The block's four columns; None if any of it needs a closer look."""

        def read() -> pa.Table:
            return pa.json.read_json(pa.BufferReader(block), self.reading, self.parsing).select(self.fields)

        return _checked(read)

    def read_line(self, line: bytes) -> tuple[str, str, float, int]:
        """The values of one line; a ValueError says why it has none."""
        row = parse_row(line)
        missing = [field for field in self.fields if row.get(field) is None]
        if missing:
            raise ValueError(f"no field {missing[0]!r}, only {', '.join(map(str, row))[:200]}")
        return _values(*(row[field] for field in self.fields))


class _CsvRows:
    """Ratings: four columns, in the release's order or as a header says."""

    def __init__(self, layout: Format, first_line: bytes) -> None:
        self.columns, self.header = list(layout.csv_columns), None
        names = dict(zip(layout.review_fields, _SCHEMA.names, strict=True))
        found = first_line.decode("utf-8", "replace").strip().split(",")
        if set(found) == set(names):
            self.columns, self.header = [names[name] for name in found], first_line
        self.reading = pa.csv.ReadOptions(column_names=self.columns, block_size=_PART_BYTES)
        self.converting = pa.csv.ConvertOptions(column_types=_SCHEMA, null_values=[""])

    def read_block(self, block: bytes) -> pa.Table | None:
        """As of `_JsonRows`."""
        if self.header and block.startswith(self.header):
            block = block[block.find(b"\n") + 1 :] if b"\n" in block else b""
        if not block.strip():
            return _SCHEMA.empty_table()

        def read() -> pa.Table:
            table = pa.csv.read_csv(pa.BufferReader(block), self.reading, convert_options=self.converting)
            return table.select(_SCHEMA.names)

        return _checked(read)

    def read_line(self, line: bytes) -> tuple[str, str, float, int] | None:
        """As of `_JsonRows`; None for the header."""
        if self.header and line.strip() == self.header.strip():
            return None
        try:
            row = next(csv.reader([line.decode("utf-8")]))
        except UnicodeDecodeError as error:
            raise ValueError(f"byte {line[error.start]:#04x} at position {error.start} is not UTF-8") from error
        if len(row) != len(self.columns):
            raise ValueError(f"{len(row)} values in place of {', '.join(self.columns)}")
        named = dict(zip(self.columns, row, strict=True))
        return _values(*(named[name] for name in _SCHEMA.names))


def _checked(read: Callable[[], pa.Table]) -> pa.Table | None:
    """The table that `read` gives; None if it fails, or if an id or a number is missing."""
    try:
        table = read().rename_columns(_SCHEMA.names).cast(_SCHEMA)
        table.validate(full=True)  # UTF-8 among others
    except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowTypeError):
        return None
    if any(column.null_count for column in table.columns):
        return None
    if not pc.all(pc.is_finite(table["rating"])).as_py():
        return None
    if any(pc.any(pc.is_in(table[name], _MISSING)).as_py() for name in ("user", "item")):
        return None
    return table


def _read_lines(path: Path, number: int, block: bytes, reader: _JsonRows | _CsvRows, bad: BadLines) -> pa.Table:
    rows = list(_good_lines(path, number, block, reader, bad))
    columns = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
    return pa.table([pa.array(*pair) for pair in zip(columns, _SCHEMA.types, strict=True)], _SCHEMA)


def _good_lines(
    path: Path, number: int, block: bytes, reader: _JsonRows | _CsvRows, bad: BadLines
) -> Iterator[tuple[str, str, float, int]]:
    for position, line in enumerate(block.split(b"\n"), start=number):
        if not line.strip():
            continue
        try:
            row = reader.read_line(line)
        except ValueError as error:
            bad.add(path, position, str(error))
        else:
            if row is not None:
                yield row


def _values(user: object, item: object, rating: object, timestamp: object) -> tuple[str, str, float, int]:
    for name, token in (("user", user), ("item", item)):
        if not isinstance(token, str) or token in MISSING_TOKENS:
            raise ValueError(f"{token!r} is no {name}")
        token.encode()  # half a surrogate pair cannot be
    time = int(_number("time", timestamp))
    if not -(2**63) <= time < 2**63:
        raise ValueError(f"time {timestamp!r} is none")
    return user, item, _number("rating", rating), time


def _number(name: str, value: object) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError):
            if math.isfinite(number := float(value)):
                return number
    raise ValueError(f"{name} {value!r} is no number")
