"""Embeddings as MMRec has them: ``<modality>_feat.npy`` in float32, and the item of every row in a table.

::

    <folder>/i_id_mapping.csv    asin, itemID: an item's token and its row, separated by a tab
             image_feat.npy      (items, width) float32; 0 where missing
             image_present.npy   (items,) bool, which MMRec does not read; without it, rows of NaN are missing

Any other ``.npy`` is read as well, with its items beside it: ``<name>.items.txt``, one a line,
``<name>.items.npy``, texts or whole numbers, or ``items.txt`` for all in the folder.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import create_array, npy_bytes, open_array, row_chunks, write_atomically
from recbole_sda.features.exchange_source import (
    MAPPING,
    MAPPING_ID,
    MAPPING_TOKEN,
    Source,
    common_dtype,
    read_ids,
    stored_dtype,
)
from recbole_sda.features.manifest import ITEMS
from recbole_sda.features.store import FeatureStore

FEATURES, PRESENT = "_feat", "_present"
OWN_IDS = (".items.txt", ".items.npy")


def write(store: FeatureStore, output: Path) -> None:
    output.mkdir()
    with (output / MAPPING).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow([MAPPING_TOKEN, MAPPING_ID])
        table.writerows((token, row) for row, token in enumerate(store.tokens))
    for modality in store.modalities:
        shape = len(store), store.width(modality)
        values = create_array(output / f"{modality}{FEATURES}.npy", dtype=np.dtype(np.float32), shape=shape)
        for rows in row_chunks(*shape):
            values[rows] = store.values(modality)[rows]
        values.flush()
        write_atomically(output / f"{modality}{PRESENT}.npy", npy_bytes(store.present(modality)))


def read(source: Path, ids: Path | None) -> Source:
    """Args: source: a folder, or one ``.npy``. ids: the file that names the items, if it is not beside it."""
    folder = source if source.is_dir() else source.parent
    paths = _modalities(sorted(source.glob("*.npy")) if source.is_dir() else [source])
    ids = ids or _ids_beside(source)
    tokens = read_ids(ids)
    arrays = {modality: open_array(path) for modality, path in paths.items()}
    for modality, array in arrays.items():
        if array.ndim != 2:
            raise SDAError(f"{paths[modality]} has shape {array.shape}; (items, width) is needed")
        if len(array) != len(tokens):
            raise SDAError(f"{paths[modality]} has {len(array)} rows, {ids} names {len(tokens)} items")

    def chunks(modality: str) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        present = _present(folder / f"{modality}{PRESENT}.npy", len(tokens))
        for rows in row_chunks(len(tokens), arrays[modality].shape[1]):
            yield rows, arrays[modality][rows], present[rows]

    return Source(
        tokens=tokens,
        widths={modality: array.shape[1] for modality, array in arrays.items()},
        dtype=common_dtype(stored_dtype(paths[modality], array.dtype) for modality, array in arrays.items()),
        chunks=chunks,
    )


def companions(source: Path) -> list[Path]:
    """The files beside one ``.npy`` that are read with it."""
    present = source.with_name(f"{_modality(source)}{PRESENT}.npy")
    return [_ids_beside(source), *([present] if present.is_file() else [])]


def _ids_beside(source: Path) -> Path:
    folder = source if source.is_dir() else source.parent
    own = [] if source.is_dir() else [source.with_name(f"{source.stem}{suffix}") for suffix in OWN_IDS]
    known = [*own, folder / MAPPING, folder / ITEMS]
    for path in known:
        if path.is_file():
            return path
    raise SDAError(
        f"{source} does not say which item a row is, and rows are never taken by position: put the items, one a "
        f"line, into {known[0] if own else known[-1]}, or `import` it with --ids=FILE"
    )


def _modality(path: Path) -> str:
    return path.stem.removesuffix(FEATURES)


def _modalities(files: list[Path]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in files:
        modality = _modality(path)
        if modality in paths:
            raise SDAError(f"{path} and {paths[modality].name} are both {modality}; leave one")
        if not path.name.endswith((f"{PRESENT}.npy", *OWN_IDS)):
            paths[modality] = path
    return paths


def _present(path: Path, items: int) -> np.ndarray:
    if not path.is_file():
        return np.ones(items, dtype=bool)
    present = open_array(path)
    if (present.shape, present.dtype) != ((items,), np.dtype(bool)):
        raise SDAError(f"{path} is {present.shape} {present.dtype}; ({items},) bool is needed")
    return present
