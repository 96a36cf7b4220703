"""Item pictures: find them, open them safely, and check them all once.

A picture is `<item token>.(jpg|jpeg|png|webp)` in one folder. Files come from crawls, so each is suspect: it
must be a regular file inside the folder, hold a JPEG, PNG or WebP (judged by content, not by name), declare
no more than the pixel limit, and decode to its end. What fails is refused with a reason, never replaced.
"""

import csv
import hashlib
import io
import os
import stat
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from recbole_sda.progress import progress_bar

EXTENSIONS = ("jpg", "jpeg", "png", "webp")  # in order of preference, when an item has several pictures
MAX_FILE_BYTES = 256 * 2**20

_FORMATS = ("JPEG", "PNG", "WEBP")
_INDEX_TITLE = "recbole_sda pictures 1"
_CHUNK = 4096


class PictureRefused(Exception):  # noqa: N818 (a verdict on a file, not a fault of the program)
    """Says in a few words why a file cannot serve as a picture."""


class PictureFolder(NamedTuple):
    """What one look at the folder found."""

    names: dict[str, str]  # item token -> file name
    problems: dict[str, str]  # item token -> why its file was refused unopened
    ignored: tuple[str, ...]  # further pictures of an item that has one already
    strangers: int  # pictures whose name is no wanted item


class PictureCheck(NamedTuple):
    """The verdict on one file as it was at `size` and `mtime_ns`."""

    size: int
    mtime_ns: int
    digest: str  # sha256 of the bytes, "" when refused
    problem: str  # "" when it is a good picture


def find_pictures(folder: Path, tokens: Iterable[str]) -> PictureFolder:
    """Match the files of `folder` to `tokens` in one scan of the folder, without a look-up per item."""
    wanted = set(tokens)
    root = os.path.realpath(folder)
    found: dict[str, list[tuple[int, str, str]]] = {}
    strangers = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            token, _, extension = entry.name.rpartition(".")
            if extension.lower() not in EXTENSIONS:
                continue
            if token not in wanted:
                strangers += 1
                continue
            rank = EXTENSIONS.index(extension.lower())
            found.setdefault(token, []).append((rank, entry.name, _refusal(entry, root)))

    names, problems, ignored = {}, {}, []
    for token in sorted(found):
        (_, name, problem), *others = sorted(found[token])
        ignored.extend(other for _, other, _ in others)
        if problem:
            problems[token] = f"{name}: {problem}"
        else:
            names[token] = name
    return PictureFolder(names, problems, tuple(ignored), strangers)


def open_image(path: Path, max_pixels: int) -> Image.Image:
    """The picture at `path` as RGB: upright (EXIF), on white where transparent, the first frame if it moves.

    Raises PictureRefused with the reason when the file is not a good picture of at most `max_pixels` pixels.
    """
    return _decode(_read(path), max_pixels)


def check_pictures(
    folder: Path,
    names: Iterable[str],
    *,
    max_pixels: int,
    index_file: Path | None = None,
    workers: int | None = None,
    show_progress: bool = True,
) -> dict[str, PictureCheck]:
    """Decode and hash every file of `names`; with `index_file`, only those changed since the last time."""
    known = _read_index(index_file, max_pixels) if index_file else {}
    checks: dict[str, PictureCheck] = {}
    todo = []
    for name in names:
        check = known.get(name)
        if check and check[:2] == _size_and_mtime(folder / name):
            checks[name] = check
        else:
            todo.append(name)
    if not todo:
        return checks
    try:
        for name, check in _check_all(folder, todo, max_pixels, workers, show_progress):
            checks[name] = check
    finally:  # an interrupted check goes on where it stopped
        if index_file:
            _write_index(index_file, max_pixels, {**known, **checks})
    return checks


def _refusal(entry: os.DirEntry, root: str) -> str:
    if entry.is_symlink() and os.path.commonpath([root, os.path.realpath(entry.path)]) != root:
        return "a link out of the picture folder"
    return "" if entry.is_file() else "not a regular file"


def _size_and_mtime(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)
    return status.st_size, status.st_mtime_ns


def _read(path: Path) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise PictureRefused("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise PictureRefused(f"{status.st_size:,} bytes are more than the limit of {MAX_FILE_BYTES:,}")
        return Path(path).read_bytes()
    except OSError as error:
        raise PictureRefused(f"cannot be read: {error.strerror}") from error


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise PictureRefused("an empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise PictureRefused(f"{width}x{height} pixels are more than max_image_pixels={max_pixels}")
            image.load()
            return _to_rgb(_upright(image))
    except PictureRefused:
        raise
    except UnidentifiedImageError as error:
        raise PictureRefused("not a JPEG, PNG or WebP picture") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureRefused(f"far more pixels than max_image_pixels={max_pixels}") from error
    except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
        raise PictureRefused(f"cannot be decoded: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data tells no orientation; the picture itself was decoded
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip to white
        samples = np.asarray(image).astype(np.int64)
        image = Image.fromarray((samples >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _check_all(
    folder: Path, names: list[str], max_pixels: int, workers: int | None, show_progress: bool
) -> Iterator[tuple[str, PictureCheck]]:
    workers = workers or min(8, os.cpu_count() or 1)
    # Threads: decoding and hashing release the GIL. In chunks: ten million futures at once fill the memory.
    with (
        ThreadPoolExecutor(workers) as pool,
        progress_bar(len(names), "check pictures", "file", show=show_progress) as bar,
    ):
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            verdicts = pool.map(lambda name: _check(folder / name, max_pixels), chunk)
            for name, check in zip(chunk, verdicts, strict=True):
                yield name, check
                bar.update()


def _check(path: Path, max_pixels: int) -> PictureCheck:
    size, mtime_ns = _size_and_mtime(path)
    try:
        data = _read(path)
        _decode(data, max_pixels)
    except PictureRefused as refused:
        return PictureCheck(size, mtime_ns, "", " ".join(str(refused).split()))
    return PictureCheck(size, mtime_ns, hashlib.sha256(data).hexdigest(), "")


def _read_index(path: Path, max_pixels: int) -> dict[str, PictureCheck]:
    """The checks in `path`; none when it is missing, damaged, or was made with another pixel limit."""
    checks: dict[str, PictureCheck] = {}
    seal = hashlib.sha256()
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for line in file:
                row = next(csv.reader([line]))
                if row[0] == "" and row[1] == seal.hexdigest():
                    return checks
                if not checks and row[0] == _INDEX_TITLE:
                    if row[1] != str(max_pixels):
                        return {}
                else:
                    name, size, mtime_ns, digest, problem = row
                    checks[name] = PictureCheck(int(size), int(mtime_ns), digest, problem)
                seal.update(line.encode())
    except (OSError, ValueError, IndexError, StopIteration, csv.Error):
        return {}
    return {}  # the seal at its end is missing: cut off


def _write_index(path: Path, max_pixels: int, checks: dict[str, PictureCheck]) -> None:
    path = Path(path)
    seal = hashlib.sha256()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(handle, "w", encoding="utf-8", newline="") as file:
            for row in _index_rows(max_pixels, checks):
                line = _csv_line(row)
                seal.update(line.encode())
                file.write(line)
            file.write(_csv_line(["", seal.hexdigest()]))
        os.replace(temporary, path)
    except OSError as error:
        warnings.warn(
            f"{path}: the picture index cannot be written ({error.strerror}); "
            "the next run checks every picture again",
            stacklevel=2,
        )
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)


def _index_rows(max_pixels: int, checks: dict[str, PictureCheck]) -> Iterator[list[str]]:
    yield [_INDEX_TITLE, str(max_pixels)]
    for name in sorted(checks):
        if "\n" not in name and "\r" not in name:  # one row a line
            yield [name, *map(str, checks[name])]


def _csv_line(row: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(row)
    return buffer.getvalue()
