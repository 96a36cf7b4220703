"""Embeddings as one safetensors file, a tensor a modality in the store's dtype.

``<modality>`` (items, width), ``<modality>.present`` (items,) bool, and ``items.utf8``: the item tokens as bytes,
one a line. The file is written here, a chunk at a time: the library's ``save_file`` wants all tensors in memory.
"""

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import row_chunks
from recbole_sda.features.exchange_source import Source, common_dtype, read_ids
from recbole_sda.features.manifest import ITEMS
from recbole_sda.features.store import FeatureStore

logger = logging.getLogger(__name__)

TOKENS, PRESENT = "items.utf8", ".present"
CODES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
STORED = {code: name for name, code in CODES.items()}
REAL = {*STORED, "F64", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64"}


def write(store: FeatureStore, output: Path) -> None:
    items, tokens = len(store), (store.path / ITEMS).read_bytes()
    # Wide values first: every tensor then begins at a multiple of its value's size.
    tensors = {
        m: (CODES[store.dtype.name], [items, store.width(m)], store.dtype.itemsize) for m in store.modalities
    }
    tensors |= {f"{modality}{PRESENT}": ("BOOL", [items], 1) for modality in store.modalities}
    tensors[TOKENS] = ("U8", [len(tokens)], 1)
    with output.open("wb") as file:
        file.write(_header(tensors))
        for modality in store.modalities:
            for rows in row_chunks(items, store.width(modality)):
                file.write(store.values(modality)[rows].tobytes())
        for modality in store.modalities:
            file.write(store.present(modality).tobytes())
        file.write(tokens)


def read(source: Path, ids: Path | None) -> Source:
    try:
        file = safe_open(source, framework="pt")
    except (SafetensorError, OSError) as error:
        raise SDAError(f"{source} cannot be read as safetensors: {error}") from error
    names = set(file.keys())
    slices = {name: file.get_slice(name) for name in sorted(names)}
    widths = {
        name: part.get_shape()[1]
        for name, part in slices.items()
        if len(part.get_shape()) == 2 and part.get_dtype() in REAL
    }
    if other := names - {TOKENS, *widths, *(f"{name}{PRESENT}" for name in widths)}:
        logger.warning(
            "%s: tensors that are no rows of numbers are left out: %s", source, ", ".join(sorted(other))
        )
    tokens = _tokens(file, names, source, ids)
    for name in widths:
        if (found := slices[name].get_shape()[0]) != len(tokens):
            raise SDAError(f"{source}: {name} has {found} rows for {len(tokens)} items")

    def chunks(modality: str) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        present = _present(file, names, modality, len(tokens), source)
        for rows in row_chunks(len(tokens), widths[modality]):
            yield rows, slices[modality][rows.start : rows.stop].float().numpy(), present[rows]

    return Source(
        tokens=tokens,
        widths=widths,
        dtype=common_dtype(STORED.get(slices[name].get_dtype(), "float32") for name in widths),
        chunks=chunks,
    )


def _header(tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
    entries, end = {}, 0
    for name, (code, shape, itemsize) in tensors.items():
        start, end = end, end + math.prod(shape) * itemsize
        entries[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _tokens(file, names: set[str], source: Path, ids: Path | None) -> list[str]:
    if (ids is None) == (TOKENS not in names):
        does = "names no items: give" if ids is None else f"names its items in {TOKENS}: leave out"
        raise SDAError(f"{source} {does} --ids=FILE, one a line")
    if ids is not None:
        return read_ids(ids)
    lines = file.get_tensor(TOKENS)
    if lines.dtype != torch.uint8:
        raise SDAError(f"{source}: {TOKENS} is {lines.dtype}, not bytes")
    try:
        return lines.numpy().tobytes().decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise SDAError(f"{source}: {TOKENS} is not UTF-8 ({error})") from error


def _present(file, names: set[str], modality: str, items: int, source: Path) -> np.ndarray:
    name = f"{modality}{PRESENT}"
    if name not in names:
        return np.ones(items, dtype=bool)
    present = file.get_tensor(name)
    if (tuple(present.shape), present.dtype) != ((items,), torch.bool):
        raise SDAError(f"{source}: {name} is {tuple(present.shape)} {present.dtype}; ({items},) bool is needed")
    return present.numpy()
