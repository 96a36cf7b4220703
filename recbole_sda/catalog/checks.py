"""Check every file of a folder once: read it, decode it, hash it; a refused file is named with the reason."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recbole_sda.catalog.file_index import FileCheck, IndexHeader, file_state, read_index, write_index
from recbole_sda.catalog.files import FileFormat, FileRefused, read_file
from recbole_sda.catalog.skipped import printable
from recbole_sda.progress import progress_bar

_CHUNK = 4096
_REASON = 300  # characters; a library's message may quote half the file


def check_files(
    folder: Path,
    names: Iterable[str],
    *,
    format: FileFormat,
    limit: float,
    on_check: Callable[[str, FileCheck], None] | None = None,
    index_file: Path | None = None,
    workers: int | None = None,
    show_progress: bool = True,
) -> dict[str, FileCheck]:
    """Decode and hash every file of `names`; with `index_file`, only those changed since the last time.

    `on_check` sees each verdict as it falls, the known ones first, and stops the check by raising.
    """
    header = IndexHeader(format.noun, os.path.realpath(folder), f"{format.limit_key}={limit}")
    known = read_index(index_file, header) if index_file else {}
    checks: dict[str, FileCheck] = {}
    todo = []

    def note(name: str, check: FileCheck) -> None:
        checks[name] = check
        if on_check:
            on_check(name, check)

    for name in names:
        check = known.get(name)
        if check and check.state == file_state(folder / name):
            note(name, check)
        else:
            todo.append(name)
    if not todo:
        return checks
    try:
        for name, check in _check_all(folder, todo, format, limit, workers, show_progress):
            note(name, check)
    finally:  # an interrupted check goes on where it stopped
        if index_file:
            write_index(index_file, header, {**known, **checks})
    return checks


def _check_all(
    folder: Path, names: list[str], format: FileFormat, limit: float, workers: int | None, show_progress: bool
) -> Iterator[tuple[str, FileCheck]]:
    workers = workers or min(8, os.cpu_count() or 1)
    # Threads: decoding and hashing release the GIL. In chunks: ten million futures at once fill the memory.
    with (
        ThreadPoolExecutor(workers) as pool,
        progress_bar(len(names), f"check {format.noun}", "file", show=show_progress) as bar,
    ):
        try:
            for start in range(0, len(names), _CHUNK):
                chunk = names[start : start + _CHUNK]
                verdicts = pool.map(lambda name: _check(folder / name, format, limit), chunk)
                for name, check in zip(chunk, verdicts, strict=True):
                    yield name, check
                    bar.update()
        finally:  # who stops early does not wait for the rest of the chunk
            pool.shutdown(cancel_futures=True)


def _check(path: Path, format: FileFormat, limit: float) -> FileCheck:
    state = file_state(path)  # before the bytes: a file that changes meanwhile is checked again
    try:
        data = read_file(path)
        size = format.size(format.decode(data, limit))
    except FileRefused as refused:
        return FileCheck(state, "", printable(" ".join(str(refused).split()))[:_REASON], (0, 0))
    return FileCheck(state, hashlib.sha256(data).hexdigest(), "", size)
