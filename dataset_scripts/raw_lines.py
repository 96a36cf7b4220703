"""Raw files in blocks of whole lines, plain or gzipped, and the account of lines that cannot be read."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from recbole_sda.errors import SDAError

BLOCK_BYTES = 1 << 23
LONGEST_LINE = 1 << 26  # a file without line breaks is none of ours; it is refused, not kept in memory
_GZIP = b"\x1f\x8b"
_AGAIN = "if it was downloaded here, delete it and run the same command again, else get it anew"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, whole lines) of about `block_bytes` each.

    Raises:
        SDAError: the file cannot be read, is empty, or its compressed data is damaged or ends too early.
    """
    number = 1
    try:
        with _open(path) as file:
            while block := file.read(block_bytes):
                block += file.readline(LONGEST_LINE)
                if number == 1:
                    block = block.removeprefix(_BYTE_ORDER_MARK)
                yield number, block
                number += block.count(b"\n") or 1
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SDAError(f"{path}: the gzip file is cut off or damaged ({error}); {_AGAIN}") from error
    except OSError as error:
        raise SDAError(f"{path} cannot be read: {error.strerror}") from error
    if number == 1:
        raise SDAError(f"{path} is empty; {_AGAIN}")


def first_lines(path: Path, count: int = 20) -> list[bytes]:
    """The first lines that are not blank, without reading further than they need."""
    _, block = next(read_blocks(path, 1 << 16))
    return [line for line in block.splitlines() if line.strip()][:count]


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as raw:
        if raw.peek(2)[:2] == _GZIP:
            with gzip.GzipFile(fileobj=raw) as file:
                yield file
        else:
            yield raw


class BadLines:
    """Refuses a line that cannot be read, or counts it where the user said so."""

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.count = 0
        self.examples: list[str] = []

    def add(self, path: Path, number: int, reason: str) -> None:
        """Report line `number`.

        Raises:
            SDAError: bad lines are not to be skipped.
        """
        message = f"{path}:{number}: {reason}"
        if not self.skip:
            raise SDAError(f"{message}; repair the file, or leave such lines out with --skip-bad-lines")
        self.count += 1
        if len(self.examples) < 3:
            self.examples.append(message)

    def note(self) -> str:
        """What was left out, in a sentence; empty if nothing was."""
        if not self.count:
            return ""
        more = "; …" if self.count > len(self.examples) else ""
        return f"{self.count:,} lines could not be read and were left out: {'; '.join(self.examples)}{more}"
