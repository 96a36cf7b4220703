"""Finish a store: its small files, every file's checksum, and last of all, atomically, the manifest."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from recbole_sda.catalog.skipped import Skipped, write_skipped
from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import DTYPES, npy_bytes, open_array, write_atomically
from recbole_sda.features.manifest import (
    DIGEST_BYTES,
    FORMAT,
    ITEMS,
    MANIFEST,
    MODALITY,
    SKIPPED,
    checksums,
    file_names,
)


def write_store(
    folder: Path,
    tokens: Sequence[str],
    modalities: Mapping[str, np.ndarray],
    *,
    settings: dict,
    dataset: str | None = None,
    contents: Mapping[str, np.ndarray] | None = None,
    skipped: Iterable[Skipped] = (),
) -> None:
    """Finish a store in ``folder``, where each modality's ``<name>.npy`` has been written already.

    Args:
        tokens: item token of every row.
        modalities: name → (items,) bool, the rows that are present.
        settings: what made the embeddings; JSON values. Kept in the manifest.
        dataset: whose items these are, if the store is for one dataset.
        contents: name → (items, 16) uint8, the digest of what each row was made of; where it is known, a later
            embedding can reuse the row.
        skipped: the files that were refused.

    Raises:
        SDAError: a token that a line of a file cannot hold, or twice the same.
        ValueError: arrays that do not fit the tokens or each other.
    """
    folder, contents = Path(folder), contents or {}
    (folder / MANIFEST).unlink(missing_ok=True)  # it spoke of other files
    check_tokens(tokens)
    (folder / ITEMS).write_bytes("".join(f"{token}\n" for token in tokens).encode())
    write_skipped(folder / SKIPPED, skipped)
    entries, dtypes, names = {}, {}, [ITEMS, SKIPPED]
    for modality, present in modalities.items():
        values = open_array(folder / f"{modality}.npy")
        present = np.asarray(present, dtype=bool)
        _check_arrays(modality, len(tokens), values, present, contents.get(modality))
        dtypes[modality] = values.dtype.name
        entries[modality] = {
            "width": values.shape[1],
            "present": int(present.sum()),
            "contents": modality in contents,
        }
        for name, array in zip(
            file_names(modality, modality in contents)[1:], (present, contents.get(modality)), strict=False
        ):
            (folder / name).write_bytes(npy_bytes(array))
        names += file_names(modality, modality in contents)
    if len(set(dtypes.values())) != 1:
        raise ValueError(f"a store has modalities, all of one dtype; found {dtypes}")
    for name in names:
        _flush(folder / name)
    sums = checksums(folder, names, "checksums")
    manifest = {
        "format": FORMAT,
        "items": len(tokens),
        "dtype": next(iter(dtypes.values())),
        "modalities": entries,
        "dataset": dataset,
        "settings": settings,
        "files": {name: {"bytes": (folder / name).stat().st_size, "sha256": sums[name]} for name in names},
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True)
    write_atomically(folder / MANIFEST, f"{text}\n".encode())


def check_tokens(tokens: Sequence[str]) -> None:
    """Refuse item tokens that ``items.txt`` cannot hold, or that are there twice."""
    broken = [token for token in tokens if "\n" in token]
    if broken:
        raise SDAError(f"item {broken[0]!r} has a line break in its identifier; a store cannot hold it")
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))
        raise SDAError(f"item {twice!r} is there twice; {len(tokens) - len(set(tokens))} identifiers are repeated")


def _check_arrays(
    modality: str, items: int, values: np.ndarray, present: np.ndarray, contents: np.ndarray | None
) -> None:
    if not MODALITY.fullmatch(modality):
        raise ValueError(f"{modality!r} is no name of a modality: letters, digits, _ and -")
    if values.ndim != 2 or values.dtype.name not in DTYPES:
        needed = f"(items, width) of {', '.join(DTYPES)}"
        raise ValueError(f"{modality}.npy is {values.shape} {values.dtype}, not {needed}")
    if (len(values), present.shape) != (items, (items,)):
        raise ValueError(f"{modality}: {len(values)} rows, {present.shape} marks of presence for {items} items")
    if contents is not None and (contents.shape, contents.dtype) != ((items, DIGEST_BYTES), np.uint8):
        raise ValueError(f"{modality}: contents are {contents.shape} {contents.dtype}")


def _flush(path: Path) -> None:
    """Have the file on the disk before the manifest says that it is."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
