"""Nearest neighbours of items in one modality, by a faiss index beside the store's files.

::

    <store>/image.faiss         the index; its ids are the store's rows
            image.faiss.json    its checksum, the checksum of the rows it was made of, the rows' mean

The mean is subtracted first: pooled embeddings share one dominant direction, and with it every item is near every
other. Vectors of length 1 then make the inner product a cosine.
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import row_chunks, write_atomically
from recbole_sda.features.extras import extra
from recbole_sda.features.manifest import check_inside, sha256
from recbole_sda.features.store import FeatureStore
from recbole_sda.progress import progress_bar

# Up to so many items every one is compared: exact, and quick enough. Above, a graph of 32 links an item is walked,
# over vectors in half precision.
FLAT_ITEMS = 50_000
FLAT, GRAPH = "Flat", "HNSW32_SQfp16"
BUILD_CANDIDATES, SEARCH_CANDIDATES = 200, 128  # of the walk; the second is the least, k may need more
SMALLEST_LENGTH = 1e-12
NAMED = 5


class Neighbours(NamedTuple):
    """The k nearest other items of n items, the nearest first; row −1 and cosine −inf where there are fewer."""

    rows: np.ndarray  # (n, k) int64
    cosines: np.ndarray  # (n, k) float32


def build_index(
    store: FeatureStore, modality: str, path: str | Path | None = None, *, show_progress: bool = True
) -> Path:
    """Index the items that have the modality.

    Args:
        path: the index's file; None puts it into the store's folder.

    Raises:
        SDAError: no such modality, no item that has it, or faiss is not installed.
    """
    faiss = extra("faiss", "index")
    path, present = _path(store, modality, path), store.present(modality)
    count = int(present.sum())
    if not count:
        raise SDAError(f"{store.path}: no item has {modality}; there is nothing to index")
    kind = FLAT if count <= FLAT_ITEMS else GRAPH
    index = faiss.index_factory(store.width(modality), kind, faiss.METRIC_INNER_PRODUCT)
    if kind == GRAPH:
        index.hnsw.efConstruction = BUILD_CANDIDATES
    index = faiss.IndexIDMap(index)
    mean = sum(values.sum(axis=0) for _, values in _chunks(store, modality, present)) / count
    with progress_bar(count, f"index {modality}", "item", show=show_progress) as bar:
        for rows, values in _chunks(store, modality, present):
            unit = _unit(values, mean)
            if not index.is_trained:
                index.train(unit)
            index.add_with_ids(unit, rows)
            bar.update(len(rows))
    _side(path).unlink(missing_ok=True)  # it spoke of another index
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    faiss.write_index(index, str(temporary))
    temporary.replace(path)
    side = {
        "sha256": sha256(path),
        "values": _values_checksum(store, modality),
        "kind": kind,
        "mean": mean.tolist(),
    }
    write_atomically(_side(path), json.dumps(side).encode())
    return path


def nearest(
    store: FeatureStore, modality: str, tokens: Sequence[str], *, k: int, path: str | Path | None = None
) -> Neighbours:
    """The items whose embeddings are nearest to those of ``tokens``, themselves left out.

    Raises:
        SDAError: an unknown item or one without the modality; no index, a damaged one, or one of other embeddings.
    """
    faiss = extra("faiss", "index")
    if k < 1:
        raise SDAError(f"k={k}: ask for 1 neighbour at least")
    rows = store.rows(tokens)
    missing = [token for token, here in zip(tokens, store.present(modality)[rows], strict=True) if not here]
    if missing:
        raise SDAError(
            f"{store.path}: {len(missing)} of {len(rows)} items have no {modality}, the first "
            f"{', '.join(map(repr, missing[:NAMED]))}"
        )
    path = _path(store, modality, path)
    side = _checked_side(store, modality, path)
    index = faiss.read_index(str(path))
    parameters = None
    if side["kind"] == GRAPH:
        parameters = faiss.SearchParametersHNSW(efSearch=max(SEARCH_CANDIDATES, 2 * (k + 1)))
    queries = _unit(store.take(modality, rows).astype(np.float64), np.array(side["mean"]))
    cosines, found = index.search(queries, k + 1, params=parameters)
    # The item itself goes; where an approximate search missed it, the last of the others.
    own = found == rows[:, None]  # (n, k + 1)
    own[~own.any(axis=1), -1] = True
    found, cosines = found[~own].reshape(-1, k), cosines[~own].reshape(-1, k)
    return Neighbours(found, np.where(found < 0, -np.inf, cosines).astype(np.float32))


def _chunks(store: FeatureStore, modality: str, present: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that are present, and their values in float64."""
    for part in row_chunks(len(store), store.width(modality), 8):
        rows = part.start + np.flatnonzero(present[part])
        if len(rows):
            yield rows, store.take(modality, rows).astype(np.float64)


def _unit(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(n, width) float32: centred and of length 1."""
    centred = values - mean
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return (centred / np.maximum(lengths, SMALLEST_LENGTH)).astype(np.float32)


def _checked_side(store: FeatureStore, modality: str, path: Path) -> dict:
    """What lies beside the index, when it fits the index and the store; faiss reads no file that does not."""
    again = "build it again with --index"
    if not path.is_file() or not _side(path).is_file():
        raise SDAError(f"{path} is no index with its {_side(path).name}; {again}")
    check_inside(path)
    check_inside(_side(path))
    try:
        side = json.loads(_side(path).read_bytes())
        fits = side["sha256"], side["values"], side["kind"] in (FLAT, GRAPH), len(side["mean"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SDAError(f"{_side(path)} does not describe an index ({error}); {again}") from error
    if fits[1] != _values_checksum(store, modality):
        raise SDAError(f"{path} was made of other {modality} embeddings than {store.path} has; {again}")
    if fits[0] != sha256(path) or fits[2:] != (True, store.width(modality)):
        raise SDAError(f"{path} does not match its checksum; {again}")
    return side


def _path(store: FeatureStore, modality: str, path: str | Path | None) -> Path:
    store.width(modality)  # names an unknown modality
    return store.path / f"{modality}.faiss" if path is None else Path(path)


def _side(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _values_checksum(store: FeatureStore, modality: str) -> str:
    return store.manifest["files"][f"{modality}.npy"]["sha256"]
