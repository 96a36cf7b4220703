"""Embeddings as RecBole's atomic file, such as ``demo.itememb``: one token column, a column of vectors a modality.

::

    iid:token   clip:float_seq  bert:float_seq
    A17         0.5 -1 0.25     1 2

Tabs between the columns, spaces between the numbers; an item with an empty cell is without the modality. Read as
text, a few megabytes at a time; never written: as text vectors take four times the space.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from recbole_sda.catalog.atomic import read_atomic, read_header
from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import rows_a_chunk
from recbole_sda.features.exchange_source import Source

KINDS = ("token", "token_seq", "float", "float_seq")
HEADER_BYTES = 2**16
PARSED_TO_STORED = 16  # a number in a list of texts takes so many times the space of a float32
SHOWN = 40  # characters


def is_atomic(path: Path) -> bool:
    """Whether the first line names columns and their types."""
    with path.open("rb") as file:
        cells = file.read(HEADER_BYTES).split(b"\n")[0].decode(errors="replace").split("\t")
    return all(cell.strip('"\r').rpartition(":")[2] in KINDS for cell in cells)


def read(source: Path, ids: Path | None) -> Source:
    if ids is not None:
        raise SDAError(f"{source} names its items in a column of its own; leave out --ids")
    kinds = read_header(source)
    columns = list(kinds)
    tokens = [name for name in columns if kinds[name] == "token"]
    modalities = [name for name in columns if kinds[name] == "float_seq"]
    if len(tokens) != 1 or not modalities:
        found = ", ".join(f"{name}:{kind}" for name, kind in kinds.items())
        raise SDAError(f"{source} has columns {found}; one token column and float_seq columns are needed")
    widths = dict.fromkeys(modalities, 0)
    items = []
    place = columns.index(tokens[0])
    for fields in _rows(source):
        items.append(fields[place])
        for modality in modalities:
            widths[modality] = widths[modality] or len(fields[columns.index(modality)].split())

    def chunks(modality: str) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        start, width, column = 0, widths[modality], columns.index(modality)
        cells = (fields[column] for fields in _rows(source))
        while part := list(islice(cells, max(1, rows_a_chunk(width) // PARSED_TO_STORED))):
            rows = slice(start, start + len(part))
            yield rows, *_parse(part, width, f"{source}: {modality}", items[rows])
            start += len(part)

    return Source(tokens=items, widths=widths, dtype="float32", chunks=chunks)


def _rows(source: Path) -> Iterator[list[str]]:
    return (fields for _, fields in islice(read_atomic(source), 1, None))


def _parse(cells: list[str], width: int, where: str, tokens: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(n, width) float32, 0 where the cell is empty; (n,) bool, the others."""
    parts = [cell.split() for cell in cells]
    has = np.array([bool(part) for part in parts])
    for part, token in zip(parts, tokens, strict=True):
        if part and len(part) != width:
            raise SDAError(f"{where} of item {token!r} has {len(part)} numbers, of the first item {width}")
    values = np.zeros((len(cells), width), dtype=np.float32)
    try:
        values[has] = _numbers([part for part in parts if part]).reshape(-1, width)
    except ValueError as error:
        raise SDAError(f"{where} of {_first_that_is_none(parts, tokens)}, which is no number") from error
    return values, has


def _first_that_is_none(parts: list[list[str]], tokens: list[str]) -> str:
    for part, token in zip(parts, tokens, strict=True):
        for text in part:
            try:
                _numbers([text])
            except ValueError:
                return f"item {token!r} holds {text[:SHOWN]!r}"
    return "some item holds something"


def _numbers(texts: list) -> np.ndarray:
    with np.errstate(over="ignore"):  # becomes infinite, which is refused later
        return np.array(texts, dtype=np.float32)
