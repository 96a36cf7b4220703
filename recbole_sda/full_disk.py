"""A full disk, told in a line with its remedy."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from recbole_sda.errors import SDAError


def is_full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def full_disk_line(error: OSError, again: str) -> str:
    """Args: again: how to go on, as in ``run the command with --resume``."""
    where = f"{error.filename} cannot be written" if error.filename else "nothing more can be written"
    return (
        f"the disk is full: {where}; free some space, or say --checkpoint_dir=FOLDER on another disk, and {again}"
    )


@contextmanager
def full_disk_refused(again: str) -> Iterator[None]:
    """Raises: SDAError: in place of the error of a full disk."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise SDAError(full_disk_line(error, again)) from error
        raise
