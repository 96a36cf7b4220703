"""Item pictures: opened safely, upright, as plain RGB.

Files come from crawls, so each is suspect: it must hold a JPEG, PNG or WebP (judged by content, not by name),
declare no more than the pixel limit and no side far longer than the other, and decode to its end. What fails
is refused with a reason, never replaced.
"""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from recbole_sda.catalog.files import FileFormat, FileRefused, FoundFiles, find_files, read_file
from recbole_sda.catalog.jpeg import count_scans

EXTENSIONS = ("jpg", "jpeg", "png", "webp")  # in order of preference, when an item has several pictures
MAX_SIDE_RATIO = 200  # Qwen-VL's image processor raises unless long side / short side is smaller
MAX_SCANS = 100  # of a progressive JPEG, which makes do with about ten

PictureFolder = FoundFiles

_FORMATS = ("JPEG", "PNG", "WEBP")
_ORIENTATION = 0x0112  # the EXIF tag: how the stored picture is to be turned
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def find_pictures(folder: Path, tokens: Iterable[str]) -> PictureFolder:
    """Match the pictures of `folder` to `tokens`."""
    return find_files(folder, tokens, EXTENSIONS)


def open_image(path: Path, max_pixels: int) -> Image.Image:
    """The picture at `path` as RGB: upright (EXIF), on white where transparent, the first frame if it moves.

    Raises FileRefused with the reason when the file is not a good picture of at most `max_pixels` pixels.
    """
    return decode_picture(read_file(path), max_pixels)


def decode_picture(data: bytes, max_pixels: int) -> Image.Image:
    """The picture whose file is `data`, as `open_image` gives it."""
    if not data:
        raise FileRefused("an empty file")
    if (scans := count_scans(data)) > MAX_SCANS:
        raise FileRefused(f"a JPEG of {scans:,} scans, more than {MAX_SCANS}")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(*image.size, max_pixels)
            image.load()
            return _to_rgb(_upright(image))
    except FileRefused:
        raise
    except UnidentifiedImageError as error:
        raise FileRefused("not a JPEG, PNG or WebP picture") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = 2 * Image.MAX_IMAGE_PIXELS
        raise FileRefused(f"more pixels than max_image_pixels={max_pixels} or Pillow ({most}) allows") from error
    except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
        raise FileRefused(f"cannot be decoded: {error}") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise FileRefused(f"{width}x{height} pixels are more than max_image_pixels={max_pixels}")
    if max(width, height) >= MAX_SIDE_RATIO * min(width, height):
        raise FileRefused(
            f"{width}x{height} pixels: one side is {MAX_SIDE_RATIO} times the other or more, "
            "which Qwen-VL's image processor does not take"
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # damaged EXIF data tells no orientation; the picture itself was decoded
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip to white
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    samples = np.asarray(image).astype(np.int64)
    grey = Image.fromarray((samples >> 8).clip(0, 255).astype(np.uint8))
    if "transparency" in image.info:  # one value of the 16 bits
        grey.putalpha(Image.fromarray(np.where(samples == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _height_and_width(picture: Image.Image) -> tuple[int, int]:
    return picture.height, picture.width


PICTURES = FileFormat(
    noun="pictures",
    extensions=EXTENSIONS,
    limit_key="max_image_pixels",
    decode=decode_picture,
    size=_height_and_width,
)
