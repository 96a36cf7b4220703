"""One file an item in one folder: find them in a single scan, and read them without trusting them.

A file is `<item token>.<extension>`. It must be a regular file inside the folder: a link may lead to another
file of the folder, never out of it. The folder itself may be a link, which whoever keeps the dataset has set.
"""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sda.catalog.skipped import printable

MAX_FILE_BYTES = 256 * 2**20


class FileRefused(Exception):  # noqa: N818 (a verdict on a file, not a fault of the program)
    """Says in a few words why a file cannot serve."""


class FileFormat(NamedTuple):
    """What a kind of file is called, how it is found, and how it is opened."""

    noun: str  # in the plural
    extensions: tuple[str, ...]  # in order of preference, when an item has several files
    limit_key: str  # the configuration key of the limit
    decode: Callable[[bytes, float], Any]  # content and limit → what a backbone takes; or FileRefused
    size: Callable[[Any], tuple[int, int]]  # of what `decode` returned


class FoundFiles(NamedTuple):
    """What one look at the folder found."""

    names: dict[str, str]  # item token -> file name, sorted by token
    refused: dict[str, tuple[str, str]]  # item token -> file name and why it was refused unopened
    ignored: tuple[str, ...]  # further files of an item that has one already
    strangers: int  # files whose name is no wanted item

    @property
    def problems(self) -> dict[str, str]:
        """Item token -> file name and reason in one line."""
        return {token: f"{printable(name)}: {reason}" for token, (name, reason) in self.refused.items()}


def find_files(folder: Path, tokens: Iterable[str], extensions: Sequence[str]) -> FoundFiles:
    """Match the files of `folder` to `tokens` in one scan of the folder, without a look-up per item."""
    wanted = set(tokens)
    root = os.path.realpath(folder)
    found: dict[str, list[tuple[int, str, str]]] = {}
    strangers = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            token, _, extension = entry.name.rpartition(".")
            if extension.lower() not in extensions:
                continue
            if token not in wanted:
                strangers += 1
                continue
            rank = extensions.index(extension.lower())
            found.setdefault(token, []).append((rank, entry.name, _refusal(entry, root)))

    names, refused, ignored = {}, {}, []
    for token in sorted(found):
        (_, name, reason), *others = sorted(found[token])
        ignored.extend(other for _, other, _ in others)
        if reason:
            refused[token] = name, reason
        else:
            names[token] = name
    return FoundFiles(names, refused, tuple(ignored), strangers)


def read_file(path: Path) -> bytes:
    """The bytes of the file at `path`; FileRefused when it is no regular file of a fair size."""
    try:
        # Without waiting: a pipe that took the file's place would block for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FileRefused("not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise FileRefused(f"{status.st_size:,} bytes are more than the limit of {MAX_FILE_BYTES:,}")
            return file.read(status.st_size)
    except OSError as error:
        raise FileRefused(f"cannot be read: {error.strerror}") from error


def _refusal(entry: os.DirEntry, root: str) -> str:
    try:
        if entry.is_symlink() and os.path.commonpath([root, os.path.realpath(entry.path)]) != root:
            return "a link out of its folder"
        return "" if entry.is_file() else "not a regular file"
    except OSError as error:  # such as a ring of links
        return f"cannot be read: {error.strerror}"
