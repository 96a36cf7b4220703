"""Archives unpacked without trusting them: nothing outside the folder, no links, no bombs, all or nothing."""

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, NamedTuple

from recbole_sda.catalog.atomic import replacing_folder
from recbole_sda.errors import SDAError

MAX_BYTES = 64 * 2**30
MAX_RATIO = 200  # unpacked to packed bytes; ratings as text are packed about tenfold
SMALL = 64 * 2**20  # bytes that may always be unpacked: a small file of zeros is no bomb
_CHUNK = 2**20


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_BYTES, max_files: int = 1_000_000) -> Path:
    """Unpack a .zip, .tar (.gz, .xz, .bz2) or .gz file, told by content, into the new folder `folder`.

    Only folders and regular files inside `folder` are made. A .gz becomes the one file it holds.

    Raises:
        SDAError: `folder` holds something already, a member would leave it, is a link or a device, the archive
            is damaged, or holds more than `max_bytes`, `max_files` or MAX_RATIO times its own bytes.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SDAError(f"{folder} exists; delete it to unpack {archive} anew")
    try:
        allowed = min(max_bytes, max(SMALL, MAX_RATIO * archive.stat().st_size))
        with ExitStack() as stack, replacing_folder(folder) as new:
            for number, member in enumerate(_members(archive, stack), start=1):
                if number > max_files:
                    raise SDAError(f"{archive} holds more than {max_files:,} members; it is not unpacked")
                target = _inside(new, member, archive)
                if member.is_folder:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, open(target, "xb") as file:
                    allowed -= _copy(source, file, allowed, archive)
            if not any(new.iterdir()):
                raise SDAError(f"{archive} holds nothing; download it again")
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise SDAError(f"{archive} is damaged ({error}); delete it and download it again") from error
    except (OSError, RuntimeError, NotImplementedError) as error:  # the last two: encrypted, or packed unusually
        raise SDAError(f"{archive} cannot be unpacked into {folder}: {error}") from error
    return folder


class _Member(NamedTuple):
    name: str
    is_folder: bool
    is_file: bool  # a regular one
    open: Callable[[], BinaryIO]


def _members(archive: Path, stack: ExitStack) -> Iterator[_Member]:
    with open(archive, "rb") as file:
        start = file.read(4)
    if start.startswith(b"PK"):
        yield from _zip_members(stack.enter_context(zipfile.ZipFile(archive)))
    elif _is_tar(archive):
        yield from _tar_members(stack.enter_context(tarfile.open(archive)))  # noqa: SIM115 (the stack closes it)
    elif start.startswith(b"\x1f\x8b"):
        yield _Member(archive.name.removesuffix(".gz"), False, True, lambda: gzip.open(archive))  # noqa: SIM115
    else:
        raise SDAError(f"{archive} is no zip, tar or gzip file (it begins with {start!r}); download it again")


def _is_tar(archive: Path) -> bool:
    """Whether `archive` is a tar with a member; to tarfile.is_tarfile, any file that begins with zeros is one."""
    try:
        with tarfile.open(archive) as opened:
            return opened.next() is not None
    except tarfile.TarError:
        return False


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for entry in archive.infolist():
        kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the archive was not made on Unix
        regular = kind in (0, stat.S_IFREG)
        yield _Member(entry.filename, entry.is_dir(), regular, lambda entry=entry: archive.open(entry))


# Stricter than tarfile's own data filter, which some Python 3.11 lack: here no link is made, and no mode is set.
def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for entry in archive:
        yield _Member(entry.name, entry.isdir(), entry.isreg(), lambda entry=entry: archive.extractfile(entry))


def _inside(folder: Path, member: _Member, archive: Path) -> Path:
    """Where `member` goes; SDAError when that is not in `folder`, or it is neither file nor folder."""
    posix, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    if posix.is_absolute() or windows.anchor or ".." in windows.parts or "\0" in member.name:
        raise SDAError(f"{archive}: member {member.name!r} would leave its folder; the archive is not unpacked")
    if not (member.is_folder or member.is_file):
        raise SDAError(f"{archive}: member {member.name!r} is a link or a device; the archive is not unpacked")
    return folder / posix


def _copy(source: BinaryIO, target: BinaryIO, allowed: int, archive: Path) -> int:
    copied = 0
    while chunk := source.read(_CHUNK):
        copied += len(chunk)
        if copied > allowed:
            raise SDAError(f"{archive} unpacks to more bytes than allowed, as a bomb would; it is not unpacked")
        target.write(chunk)
    return copied
