"""Arrays on disk: ``.npy`` that plain numpy opens, mapped, never pickled, and files that are whole or absent.

numpy has no bfloat16. Its files hold ``V2``, two opaque bytes a value, which nobody takes for integers by mistake;
:func:`open_array` and :func:`create_array` give them back as ``ml_dtypes.bfloat16``.
"""

import errno
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError

import ml_dtypes
import numpy as np

from recbole_sda.errors import SDAError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"float16": np.dtype(np.float16), "bfloat16": BFLOAT16, "float32": np.dtype(np.float32)}
ON_DISK = {BFLOAT16: np.dtype("V2")}
IN_MEMORY = {on_disk: dtype for dtype, on_disk in ON_DISK.items()}
# What numpy raises at a header that is none, beside the ValueError that it should.
BROKEN = (ValueError, OSError, EOFError, OverflowError, SyntaxError, TypeError, RecursionError, TokenError)
CANNOT_RESERVE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)  # some file systems, without glibc
CHUNK_BYTES = 64 * 2**20


def array_dtype(name: str) -> np.dtype:
    """numpy's dtype of what `feature_dtype` names."""
    if name not in DTYPES:
        raise SDAError(f"feature_dtype={name}: choose {', '.join(DTYPES)}")
    return DTYPES[name]


def open_array(path: str | Path) -> np.ndarray:
    """Map an ``.npy`` into memory, read-only; nothing of it is read but its header.

    Raises:
        SDAError: no ``.npy``, cut off, or one that only a pickle could give back.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except BROKEN as error:
        raise SDAError(f"{path} cannot be read as an .npy array: {error}") from error
    if not isinstance(array, np.ndarray):  # a zip of several
        array.close()
        raise SDAError(f"{path} is an archive of arrays; a single .npy is needed")
    return array.view(IN_MEMORY.get(array.dtype, array.dtype))


def prefetch(array: np.memmap, rows: np.ndarray) -> None:
    """Ask the system to read these rows together; one page fault after the other waits for the disk each time."""
    if not hasattr(os, "posix_fadvise"):
        return
    with open(array.filename, "rb") as file:
        for row in rows.tolist():
            place = array.offset + row * array.strides[0]
            os.posix_fadvise(file.fileno(), place, array.strides[0], os.POSIX_FADV_WILLNEED)


def create_array(path: str | Path, *, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A new ``.npy`` full of zeros, mapped into memory for writing; ``flush`` it at the end.

    Raises:
        OSError: there is no room for all of it.
    """
    dtype = np.dtype(dtype)
    array = np.lib.format.open_memmap(path, "w+", dtype=ON_DISK.get(dtype, dtype), shape=shape)
    _reserve(Path(path))
    return array.view(dtype)


def _reserve(path: Path) -> None:
    """A file with holes: on a full disk the write to one, through memory, would kill the process wordlessly."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in CANNOT_RESERVE:
                raise


def npy_bytes(values: np.ndarray) -> memoryview:
    """The whole ``.npy`` of an array."""
    buffer = io.BytesIO()
    values = np.ascontiguousarray(values)  # equal values, equal bytes
    np.save(buffer, values.view(ON_DISK.get(values.dtype, values.dtype)), allow_pickle=False)
    return buffer.getbuffer()


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Have ``path`` hold ``data`` on the disk, or what it held before, whenever the process is killed."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Have the folder's file names on the disk."""
    if os.name == "nt":  # has no handle of a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rows_a_chunk(width: int, itemsize: int = 4) -> int:
    """How many rows of ``width`` values make about 64 MB."""
    return max(1, CHUNK_BYTES // max(1, width * itemsize))


def row_chunks(rows: int, width: int, itemsize: int = 4) -> Iterator[slice]:
    """Slices of rows of about 64 MB each."""
    step = rows_a_chunk(width, itemsize)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
