"""A full disk, told in a line with its remedy, whichever library was writing."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from recbole_sda.errors import SDAError

FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's share of it
# safetensors and Ray's workers pass the system's words on without its number.
WORDS = tuple(map(os.strerror, FULL))
KEYS = "--checkpoint_dir, --output"


def is_full_disk(error: BaseException) -> bool:
    return any(_says_so(each) for each in _chain(error))


def full_disk_line(error: BaseException, again: str) -> str:
    """Args: again: how to go on, as in ``run the command with --resume``."""
    named = (getattr(each, "filename", None) for each in _chain(error) if _says_so(each))
    file = next(filter(None, named), None)
    where = f"{file} cannot be written" if file else "nothing more can be written"
    return f"the disk is full: {where}; free some space, or name a folder on another disk ({KEYS}), and {again}"


@contextmanager
def full_disk_refused(again: str) -> Iterator[None]:
    """Raises: SDAError: in place of the error of a full disk."""
    try:
        yield
    except Exception as error:
        if is_full_disk(error) and not isinstance(error, SDAError):
            raise SDAError(full_disk_line(error, again)) from error
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those behind it: torch's own hides the system's."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _says_so(error: BaseException) -> bool:
    return getattr(error, "errno", None) in FULL or any(words in str(error) for words in WORDS)
