"""Item pictures: find them, open them safely, and check them all once.

A picture is `<item token>.(jpg|jpeg|png|webp)` in one folder. Files come from crawls, so each is suspect: it
must be a regular file inside the folder, hold a JPEG, PNG or WebP (judged by content, not by name), declare
no more than the pixel limit and no side far longer than the other, and decode to its end. What fails is
refused with a reason, never replaced.
"""

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from recbole_sda.catalog.picture_index import PictureCheck, file_state, read_index, write_index
from recbole_sda.progress import progress_bar

EXTENSIONS = ("jpg", "jpeg", "png", "webp")  # in order of preference, when an item has several pictures
MAX_FILE_BYTES = 256 * 2**20
MAX_SIDE_RATIO = 200  # Qwen-VL's image processor raises unless long side / short side is smaller

_FORMATS = ("JPEG", "PNG", "WEBP")
_CHUNK = 4096


class PictureRefused(Exception):  # noqa: N818 (a verdict on a file, not a fault of the program)
    """Says in a few words why a file cannot serve as a picture."""


class PictureFolder(NamedTuple):
    """What one look at the folder found."""

    names: dict[str, str]  # item token -> file name
    problems: dict[str, str]  # item token -> why its file was refused unopened
    ignored: tuple[str, ...]  # further pictures of an item that has one already
    strangers: int  # pictures whose name is no wanted item


class ItemPictures(NamedTuple):
    """The pictures of a list of items, checked."""

    image_paths: list[Path | None]  # an entry for every item, None when missing or refused
    image_digests: list[str]  # sha256 of the file, "" when missing or refused
    problems: dict[str, str]  # item token -> file name and why its picture was refused
    ignored_pictures: tuple[str, ...]  # second pictures of an item, not used


def read_pictures(folder: Path | None, tokens: Sequence[str], **options) -> ItemPictures:
    """Find and check the picture of every item of `tokens`; `options` are those of `check_pictures`."""
    pictures = find_pictures(folder, tokens) if folder else PictureFolder({}, {}, (), 0)
    checks = check_pictures(folder, pictures.names.values(), **options) if pictures.names else {}
    paths: list[Path | None] = []
    digests, problems = [], {}
    for token in tokens:
        file_name = pictures.names.get(token)
        check = checks[file_name] if file_name else None
        good = check is not None and not check.problem
        paths.append(folder / file_name if good else None)
        digests.append(check.digest if good else "")
        if check and check.problem:
            problems[token] = f"{file_name}: {check.problem}"
        elif token in pictures.problems:
            problems[token] = pictures.problems[token]
    return ItemPictures(paths, digests, problems, pictures.ignored)


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
    return decode_picture(read_picture(path), max_pixels)


def read_picture(path: Path) -> bytes:
    """The bytes of the file at `path`; PictureRefused when it is no regular file of a fair size."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise PictureRefused("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise PictureRefused(f"{status.st_size:,} bytes are more than the limit of {MAX_FILE_BYTES:,}")
        return Path(path).read_bytes()
    except OSError as error:
        raise PictureRefused(f"cannot be read: {error.strerror}") from error


def decode_picture(data: bytes, max_pixels: int) -> Image.Image:
    """The picture whose file is `data`, as `open_image` gives it."""
    if not data:
        raise PictureRefused("an empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(*image.size, max_pixels)
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
    known = read_index(index_file, folder, max_pixels) if index_file else {}
    checks: dict[str, PictureCheck] = {}
    todo = []
    for name in names:
        check = known.get(name)
        if check and check.state == file_state(folder / name):
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
            write_index(index_file, folder, max_pixels, {**known, **checks})
    return checks


def _refusal(entry: os.DirEntry, root: str) -> str:
    if entry.is_symlink() and os.path.commonpath([root, os.path.realpath(entry.path)]) != root:
        return "a link out of the picture folder"
    return "" if entry.is_file() else "not a regular file"


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise PictureRefused(f"{width}x{height} pixels are more than max_image_pixels={max_pixels}")
    if max(width, height) >= MAX_SIDE_RATIO * min(width, height):
        raise PictureRefused(
            f"{width}x{height} pixels: one side is {MAX_SIDE_RATIO} times the other or more, "
            "which Qwen-VL's image processor does not take"
        )


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
    state = file_state(path)  # before the bytes: a file that changes meanwhile is checked again
    try:
        data = read_picture(path)
        decode_picture(data, max_pixels)
    except PictureRefused as refused:
        return PictureCheck(state, "", " ".join(str(refused).split()))
    return PictureCheck(state, hashlib.sha256(data).hexdigest(), "")
