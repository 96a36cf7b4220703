"""A modality of precomputed vectors: `<name>.npy` and, beside it, the item of each row.

    <name>.npy          (rows, dimensions), any float or whole numbers, never pickled objects
    <name>.items.txt    one item token a line, UTF-8: line k names row k

The matrix is mapped into memory and read in pieces, so it may be larger than memory. A row that holds NaN or
infinity, as stored or as float32, is refused; a row of zeros is a vector like any other.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from recbole_sda.catalog.file_index import file_state
from recbole_sda.catalog.file_items import changed, hexadecimal, refusal
from recbole_sda.catalog.skipped import Skipped
from recbole_sda.errors import SDAError

_PIECE_BYTES = 2**23


@dataclass(frozen=True, eq=False)
class VectorItems:
    """The vectors of a list of items, in the list's order; `VectorItems.open` checks every one."""

    modality: str
    tokens: tuple[str, ...]
    path: Path
    rows: np.ndarray  # (items,) int64, the row of each item, -1 when missing or refused
    digests: np.ndarray  # (items, 32) uint8, sha256 of the row, zeros when missing or refused
    sizes: np.ndarray  # (items, 2) int32, (1, dimensions), zeros when missing or refused
    skipped: list[Skipped]

    ignored: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path, tokens: tuple[str, ...], *, modality: str, strict: bool) -> "VectorItems":
        """Check the row of every item of `tokens`; `strict` stops at the first that is refused."""
        matrix = _open_matrix(path)
        row_of = _read_row_tokens(path.with_name(f"{path.stem}.items.txt"), matrix)
        rows = np.array([row_of.get(token, -1) for token in tokens], dtype=np.int64)
        digests = np.zeros((len(tokens), 32), dtype=np.uint8)
        skipped = {}
        for positions in _pieces(rows, matrix):
            block = np.ascontiguousarray(matrix[rows[positions]])  # (piece, dimensions)
            for position, vector, finite in zip(positions, block, _finite(block).all(axis=1), strict=True):
                if finite:
                    digests[position] = np.frombuffer(_digest(vector), dtype=np.uint8)
                    continue
                file = f"{path.name}[{rows[position]}]"
                skipped[position] = Skipped(tokens[position], modality, file, _reason(vector))
                if strict:
                    raise refusal(skipped[position], path)
                rows[position] = -1
        sizes = np.where(rows[:, None] >= 0, [1, matrix.shape[1]], 0).astype(np.int32)
        return cls(
            modality=modality,
            tokens=tokens,
            path=path,
            rows=rows,
            digests=digests,
            sizes=sizes,
            skipped=[skipped[position] for position in sorted(skipped)],
        )

    @property
    def present(self) -> np.ndarray:
        return self.rows >= 0

    @property
    def contents(self) -> list[str]:
        return hexadecimal(self.digests)

    def fingerprint_parts(self) -> Iterator[Sequence[str]]:
        yield self.contents

    def load(self, row: int) -> np.ndarray:
        """The item's vector, (dimensions,) float32."""
        if self.rows[row] < 0:
            raise SDAError(
                f"item {self.tokens[row]!r} has no {self.modality}; ask present({self.modality!r}) first"
            )
        try:
            vector = _kept_matrix(self.path, file_state(self.path))[self.rows[row]]
        except (SDAError, IndexError) as error:
            raise changed(self.path, f" ({error})") from error
        if _digest(vector) != self.digests[row].tobytes():
            raise changed(self.path)
        return np.array(vector, dtype=np.float32)


def _digest(vector: np.ndarray) -> bytes:
    of_what = f"{vector.dtype.str} {vector.size}\n".encode()  # the same bytes are other numbers in another dtype
    return hashlib.sha256(of_what + vector.tobytes()).digest()


@lru_cache(maxsize=8)
def _kept_matrix(path: Path, state: tuple[int, ...]) -> np.ndarray:
    """The matrix in `path`, mapped once for all its rows as long as the file is in `state`."""
    return _open_matrix(path)


def _open_matrix(path: Path) -> np.ndarray:
    if not path.is_file():
        raise SDAError(f"{path} is not a regular file; save the vectors with numpy.save(path, matrix)")
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header raises almost any type
        raise SDAError(
            f"{path} is no .npy file of numbers that can be mapped into memory ({error}); save the vectors with "
            "numpy.save(path, matrix, allow_pickle=False)"
        ) from error
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "fiu":
        found = matrix.dtype if isinstance(matrix, np.ndarray) else "an archive"
        raise SDAError(f"{path} holds {found}; it needs float or whole numbers")
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise SDAError(f"{path} has the shape {matrix.shape}; it needs (rows, dimensions), a row an item")
    return matrix


def _read_row_tokens(path: Path, matrix: np.ndarray) -> dict[str, int]:
    """Item token → row of the matrix."""
    try:
        if not path.is_file():
            raise SDAError(f"{path} does not exist; it says, a line each, which item every row is")
        lines = path.read_bytes().decode("utf-8").removeprefix("\ufeff").split("\n")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SDAError(f"{path}:{line}: byte {error.object[error.start]:#04x} is not UTF-8") from error
    except OSError as error:
        raise SDAError(f"{path} cannot be read: {error.strerror}") from error
    if lines[-1] == "":
        del lines[-1]
    tokens = [line.removesuffix("\r") for line in lines]
    if len(tokens) != len(matrix):
        raise SDAError(
            f"{path} names {len(tokens):,} items, but the matrix beside it has {len(matrix):,} rows; "
            "it needs one token a line, line k for row k"
        )
    row_of: dict[str, int] = {}
    for row, token in enumerate(tokens):
        if token in row_of:
            raise SDAError(
                f"{path}:{row + 1}: item {token!r} stands on line {row_of[token] + 1} too; keep one row of the two"
            )
        row_of[token] = row
    if "" in row_of:
        raise SDAError(f"{path}:{row_of[''] + 1}: an empty line names no item")
    return row_of


def _pieces(rows: np.ndarray, matrix: np.ndarray) -> Iterator[np.ndarray]:
    """Positions in `rows` of the items that have a vector, in the order of the file, a few megabytes each."""
    positions = np.argsort(rows, kind="stable")
    positions = positions[rows[positions] >= 0]
    length = max(1, _PIECE_BYTES // (matrix.shape[1] * matrix.itemsize))
    for start in range(0, len(positions), length):
        yield positions[start : start + length]


def _finite(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.isfinite(values.astype(np.float32))


def _reason(vector: np.ndarray) -> str:
    bad = int(np.argmin(_finite(vector)))
    return f"value {bad} is {vector[bad]}, which no float32 holds as a finite number"
