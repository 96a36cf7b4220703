"""Feature stores out of and into other formats, a chunk of rows at a time, so that size does not matter.

A format is a module with ``read(source, ids)``, see :class:`Source`, and ``write(store, output)``.
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
from recbole_sda.features import exchange_atomic, exchange_npy, exchange_parquet, exchange_safetensors
from recbole_sda.features.arrays import array_dtype, create_array
from recbole_sda.features.exchange_source import Source
from recbole_sda.features.manifest import MANIFEST, MODALITY
from recbole_sda.features.store import FeatureStore
from recbole_sda.features.writing import check_tokens, write_store

FORMATS = {"npy": exchange_npy, "parquet": exchange_parquet, "safetensors": exchange_safetensors}
READ_FORMATS = {**FORMATS, "atomic": exchange_atomic}


def export_store(store: FeatureStore, output: str | Path, *, format: str) -> None:
    """Write a store's values, presence and item tokens in another format.

    Args:
        output: a folder for ``npy``, MMRec's layout; a file for ``parquet`` and ``safetensors``.

    Raises:
        SDAError: unknown format, or there is something already.
    """
    writer = _format(format, FORMATS)
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
        source: a folder or an ``.npy`` for ``npy``; a file for ``parquet``, ``safetensors`` and ``atomic``.
        output: the store's folder.
        dataset: whose items these are; the store then serves that dataset only.
        dtype: of the store; None keeps the source's, and makes float32 of what no store holds.
        ids: a file that names the item of every row, for sources that do not.

    Raises:
        SDAError: nothing there, or pickled; rows that do not fit the items; repeated items; values that are not
            finite or too large for the dtype.
    """
    source = Path(source)
    incoming = read_source(source, format=format, ids=Path(ids) if ids is not None else None)
    with _whole(Path(output)) as folder:
        folder.mkdir()
        settings = {"imported": source.name, "format": format}
        fill_store(folder, source, incoming, settings=settings, dataset=dataset, dtype=dtype)
    return FeatureStore.open(output)


def read_source(source: Path, *, format: str, ids: Path | None = None) -> Source:
    """What a file or folder in another format holds; its vectors are read when they are asked for.

    Raises:
        SDAError: nothing there, or pickled; rows that do not fit the items.
    """
    reader = _format(format, READ_FORMATS)
    if not source.exists():
        raise SDAError(f"{source} does not exist; it has to hold embeddings as {format}")
    if (source / MANIFEST).exists():
        raise SDAError(f"{source} is a feature store; use it as it is: --features={source}")
    return reader.read(source, ids)


def fill_store(
    folder: Path,
    source: Path,
    incoming: Source,
    *,
    settings: dict,
    dataset: str | None = None,
    dtype: str | None = None,
    nan_is_missing: bool = True,
) -> None:
    """Write a store of ``incoming`` into an empty folder.

    Args:
        nan_is_missing: a row that is NaN throughout is an item without the modality; otherwise it is refused.

    Raises:
        SDAError: repeated items; values that are not finite or too large for the dtype.
    """
    _check(source, incoming)
    dtype = dtype or incoming.dtype
    presents = {m: _fill(folder / f"{m}.npy", source, incoming, m, dtype, nan_is_missing) for m in incoming.widths}
    write_store(folder, incoming.tokens, presents, settings=settings, dataset=dataset)


def _format(name: str, formats: dict[str, ModuleType]) -> ModuleType:
    if name not in formats:
        raise SDAError(f"format={name}: choose {', '.join(formats)}")
    return formats[name]


def _check(source: Path, incoming: Source) -> None:
    check_tokens(incoming.tokens)
    if not incoming.widths:
        raise SDAError(f"{source} holds no embeddings")
    for modality, width in incoming.widths.items():
        if not MODALITY.fullmatch(modality):
            raise SDAError(f"{source}: {modality!r} is no name of a modality: letters, digits, _ and -")
        if not width:
            raise SDAError(f"{source}: the vectors of {modality} have no values")


def _fill(
    path: Path, source: Path, incoming: Source, modality: str, dtype: str, nan_is_missing: bool
) -> np.ndarray:
    """Write one modality's values. Returns: (items,) bool, present."""
    items, stored = len(incoming.tokens), array_dtype(dtype)
    largest = float(ml_dtypes.finfo(stored).max)
    values = create_array(path, dtype=stored, shape=(items, incoming.widths[modality]))
    present, broken = np.zeros(items, dtype=bool), np.zeros(items, dtype=bool)
    for rows, given, has in incoming.chunks(modality):
        with np.errstate(over="ignore"):  # found below
            given = given.astype(np.float32)
        if nan_is_missing:
            has = has & ~np.isnan(given).all(axis=1)
        finite = (np.abs(given) <= largest).all(axis=1)  # of NaN it is not
        broken[rows] = has & ~finite
        present[rows] = has
        values[rows][has & finite] = given[has & finite].astype(stored)
    values.flush()
    if broken.any():
        raise SDAError(
            f"{source}: {modality} of {broken.sum():,} of {items:,} items is not finite, or too large for {dtype}"
            f", the first {incoming.tokens[broken.argmax()]!r}. Mend these rows, or leave them out"
        )
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
