"""Feature stores out of and into other formats, a chunk of rows at a time, so that size does not matter.

A format is a module with ``write(store, output)`` and ``read(source, ids)``, see :class:`Source`.
"""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.features import exchange_npy, exchange_parquet, exchange_safetensors
from recbole_sda.features.arrays import array_dtype, create_array
from recbole_sda.features.exchange_source import Source
from recbole_sda.features.manifest import MANIFEST, MODALITY
from recbole_sda.features.store import FeatureStore
from recbole_sda.features.writing import check_tokens, write_store

FORMATS = {"npy": exchange_npy, "parquet": exchange_parquet, "safetensors": exchange_safetensors}


def export_store(store: FeatureStore, output: str | Path, *, format: str) -> None:
    """Write a store's values, presence and item tokens in another format.

    Args:
        output: a folder for ``npy``, MMRec's layout; a file for ``parquet`` and ``safetensors``.

    Raises:
        SDAError: unknown format, or there is something already.
    """
    writer = _format(format)
    with _whole(Path(output)) as unfinished:
        writer.write(store, unfinished)


def import_store(
    source: str | Path,
    output: str | Path,
    *,
    format: str,
    dataset: str | None = None,
    dtype: str | None = None,
    ids: str | Path | None = None,
) -> FeatureStore:
    """Make a store of embeddings in another format.

    A row that is null, or NaN throughout, is an item without the modality.

    Args:
        source: a folder or an ``.npy`` for ``npy``; a file for ``parquet`` and ``safetensors``.
        output: the store's folder.
        dataset: whose items these are; the store then serves that dataset only.
        dtype: of the store; None keeps the source's, and makes float32 of what no store holds.
        ids: a file that names the item of every row, for sources that do not.

    Raises:
        SDAError: nothing there, or pickled; rows that do not fit the items; repeated items; values that are not
            finite or too large for the dtype.
    """
    source, reader = Path(source), _format(format)
    if not source.exists():
        raise SDAError(f"{source} does not exist; it has to hold embeddings as {format}")
    if (source / MANIFEST).exists():
        raise SDAError(f"{source} is a feature store; use it as it is: --features={source}")
    with _whole(Path(output)) as folder:
        incoming = reader.read(source, Path(ids) if ids is not None else None)
        _check(source, incoming)
        folder.mkdir()
        dtype = dtype or incoming.dtype
        presents = {m: _fill(folder / f"{m}.npy", source, incoming, m, dtype) for m in incoming.widths}
        settings = {"imported": source.name, "format": format}
        write_store(folder, incoming.tokens, presents, settings=settings, dataset=dataset)
    return FeatureStore.open(output)


def _format(name: str) -> ModuleType:
    if name not in FORMATS:
        raise SDAError(f"format={name}: choose {', '.join(FORMATS)}")
    return FORMATS[name]


def _check(source: Path, incoming: Source) -> None:
    check_tokens(incoming.tokens)
    if not incoming.widths:
        raise SDAError(f"{source} holds no embeddings")
    for modality, width in incoming.widths.items():
        if not MODALITY.fullmatch(modality):
            raise SDAError(f"{source}: {modality!r} is no name of a modality: letters, digits, _ and -")
        if not width:
            raise SDAError(f"{source}: the vectors of {modality} have no values")


def _fill(path: Path, source: Path, incoming: Source, modality: str, dtype: str) -> np.ndarray:
    """Write one modality's values. Returns: (items,) bool, present."""
    items, stored = len(incoming.tokens), array_dtype(dtype)
    largest = float(ml_dtypes.finfo(stored).max)
    values = create_array(path, dtype=stored, shape=(items, incoming.widths[modality]))
    present = np.zeros(items, dtype=bool)
    for rows, given, has in incoming.chunks(modality):
        with np.errstate(over="ignore"):  # found below
            given = given.astype(np.float32)
        has = has & ~np.isnan(given).all(axis=1)
        broken = np.flatnonzero(has & ~(np.abs(given) <= largest).all(axis=1))
        if len(broken):
            raise SDAError(
                f"{source}: {modality} of item {incoming.tokens[rows.start + broken[0]]!r} is not finite, or too "
                f"large for {dtype}"
            )
        values[rows][has] = given[has].astype(stored)
        present[rows] = has
    values.flush()
    return present


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A name beside ``output`` for the file or folder that becomes it when it is finished."""
    if output.exists():
        raise SDAError(f"{output} exists already; remove it or choose another name")
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.{secrets.token_hex(8)}.unfinished")
    try:
        yield unfinished
        unfinished.rename(output)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.unlink(missing_ok=True)
