"""Embeddings as a parquet table: ``item_id``, and a column of float32 lists a modality, null where missing.

Written and read a row group at a time. The lists of others need not have a fixed size in the schema, and their
column of items may have another name if no other can be meant.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet

from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import DTYPES, row_chunks, rows_a_chunk
from recbole_sda.features.exchange_source import Source
from recbole_sda.features.store import FeatureStore

logger = logging.getLogger(__name__)

ITEM = "item_id"
DTYPE = b"recbole_sda.dtype"  # what the store held before it became float32
SEARCH_ROWS = 1024


def write(store: FeatureStore, output: Path) -> None:
    widths = {modality: store.width(modality) for modality in store.modalities}
    lists = [pa.field(modality, pa.list_(pa.float32(), width)) for modality, width in widths.items()]
    schema = pa.schema(
        [pa.field(ITEM, pa.string(), nullable=False), *lists], metadata={DTYPE: store.dtype.name.encode()}
    )
    presents = {modality: store.present(modality) for modality in widths}
    with parquet.ParquetWriter(output, schema, use_dictionary=False) as writer:
        for rows in row_chunks(len(store), sum(widths.values())):
            columns = [pa.array(store.tokens[rows], pa.string())]
            for modality, width in widths.items():
                values = store.values(modality)[rows].astype(np.float32).reshape(-1)
                missing = pa.array(~presents[modality][rows])
                columns.append(pa.FixedSizeListArray.from_arrays(pa.array(values), width, mask=missing))
            writer.write_table(pa.table(columns, schema=schema))


def read(source: Path, ids: Path | None) -> Source:
    if ids is not None:
        raise SDAError(f"{source} names its items in a column of its own; leave out --ids")
    try:
        file = parquet.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise SDAError(f"{source} cannot be read as parquet: {error}") from error
    schema = file.schema_arrow
    item = _item_column(pa, schema, source)
    modalities = [field.name for field in schema if _is_vector(pa, field.type)]
    if other := set(schema.names) - {item, *modalities}:
        logger.warning(
            "%s: columns that are no lists of numbers are left out: %s", source, ", ".join(sorted(other))
        )
    widths = {modality: _width(file, schema.field(modality), source) for modality in modalities}

    def chunks(modality: str) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        start, width = 0, widths[modality]
        for column in _columns(file, modality, rows_a_chunk(width), source):
            here = column.is_valid().to_numpy(zero_copy_only=False)
            lengths = _lengths(column)
            if (lengths != width).any():
                other = lengths[lengths != width][0]
                raise SDAError(f"{source}: {modality} has lists of {width} and of {other} numbers")
            values = np.zeros((len(column), width), dtype=np.float32)
            values[here] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            yield slice(start, start + len(column)), values, here
            start += len(column)

    dtype = _dtype(schema, modalities)
    return Source(tokens=_tokens(file, item, source), widths=widths, dtype=dtype, chunks=chunks)


def _item_column(pa, schema, source: Path) -> str:
    """``item_id``, or the only column that can name items."""
    types = pa.types
    names = (types.is_string, types.is_large_string, types.is_string_view, types.is_dictionary, types.is_integer)
    able = [field.name for field in schema if any(can(field.type) for can in names)]
    if ITEM in schema.names:
        return ITEM
    if len(able) == 1:
        return able[0]
    found = f"{', '.join(able)} could all be it" if able else "none holds texts or whole numbers"
    raise SDAError(
        f"{source} has columns {', '.join(schema.names)}: which one names the items is not clear ({found}); "
        f"call it {ITEM}"
    )


def _is_vector(pa, kind) -> bool:
    types = pa.types
    is_list = types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)
    return is_list and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))


def _columns(file, name: str, rows: int, source: Path) -> Iterator:
    """A column's arrays of at most so many rows."""
    try:
        for group in range(file.num_row_groups):  # asked for all at once, they would be in memory all at once
            for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=[name]):
                yield batch.column(0)
    except (pa.ArrowException, OSError) as error:
        raise SDAError(f"{source}: column {name} cannot be read: {error}") from error


def _lengths(column) -> np.ndarray:
    """Of the lists that are not null."""
    return compute.list_value_length(column.drop_null()).to_numpy(zero_copy_only=False)


def _width(file, field, source: Path) -> int:
    if hasattr(field.type, "list_size"):  # fixed
        return field.type.list_size
    for column in _columns(file, field.name, SEARCH_ROWS, source):
        lengths = _lengths(column)
        if len(lengths):
            return int(lengths[0])
    raise SDAError(f"{source}: {field.name} has no vector at all; leave the column out")


def _tokens(file, item: str, source: Path) -> list[str]:
    tokens: list[str] = []
    for column in _columns(file, item, SEARCH_ROWS * 64, source):
        if column.null_count:
            raise SDAError(f"{source} has rows without {item}")
        tokens += map(str, column.to_pylist())
    return tokens


def _dtype(schema, modalities: list[str]) -> str:
    stored = (schema.metadata or {}).get(DTYPE, b"").decode(errors="replace")
    if stored in DTYPES:
        return stored
    halves = {str(schema.field(modality).type.value_type) == "halffloat" for modality in modalities}
    return "float16" if halves == {True} else "float32"
