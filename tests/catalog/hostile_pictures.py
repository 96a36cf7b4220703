"""Pictures that a crawl may bring: what must be refused, with a part of the reason, and what is odd but good."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)


def saved(image, format="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def plain(colour=RED, size=(8, 6), mode="RGB"):
    return Image.new(mode, size, colour)


def noise(size=64):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks, depth=8, colour_type=2, rows=b"\0\xff\0\0") -> bytes:
    """A PNG of the given header, further chunks and uncompressed rows; by default one red pixel."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + chunk(b"IEND", b"")


def webp_claiming(side: int) -> bytes:
    """A lossless WebP whose header declares side x side pixels, and little more."""
    data = b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14) + bytes(21)
    return b"RIFF" + struct.pack("<I", 12 + len(data)) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def jpeg_of_two_components() -> bytes:
    data = saved(plain(7, mode="L"), "JPEG")
    start = data.index(b"\xff\xc0")
    frame = b"\xff\xc0\x00\x0e\x08" + data[start + 5 : start + 9] + b"\x02\x01\x11\x00\x02\x11\x00"
    return data[:start] + frame + data[start + 13 :]


def jpeg_of_many_scans(count: int) -> bytes:
    data = saved(plain(), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


def inflated(kind: bytes, head: bytes) -> bytes:
    """A PNG with a chunk of a few kilobytes that inflates to 20 million bytes."""
    return png(1, 1, chunk(kind, head + zlib.compress(bytes(20_000_000), 9)))


def stored_as(orientation: int, upright: np.ndarray) -> np.ndarray:
    """The array (height, width, 3) of which `upright` is the view under this EXIF orientation.

    The standard says for each number on which side of the view row 0 and column 0 lie.
    """
    row_side, column_side = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[orientation]  # fmt: skip
    stored = upright if row_side in ("top", "bottom") else upright.swapaxes(0, 1)
    stored = stored if row_side in ("top", "left") else stored[::-1]
    return stored if column_side in ("top", "left") else stored[:, ::-1]


QUARTERS = np.zeros((16, 32, 3), dtype=np.uint8)  # four colours, none where a turn would put another
QUARTERS[:8, :16], QUARTERS[:8, 16:], QUARTERS[8:, :16], QUARTERS[8:, 16:] = RED, GREEN, BLUE, WHITE


def turned(orientation: int, format="PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(stored_as(orientation, QUARTERS)), format, exif=exif, quality=95)


def refused_pictures() -> dict[str, tuple[bytes, str]]:
    """Name → content of the file and a part of the reason."""
    unknown, bomb = "not a JPEG, PNG or WebP picture", "max_image_pixels"
    return {
        "zero-bytes": (b"", "an empty file"),
        "html": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", unknown),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', unknown),
        "random": (np.random.default_rng(1).bytes(4_000), unknown),
        "gif": (saved(plain(), "GIF"), unknown),
        "gif-then-jpeg": (b"GIF89a" + saved(plain(), "JPEG"), unknown),
        "bmp": (saved(plain(), "BMP"), unknown),
        "tiff-float": (saved(Image.new("F", (4, 4)), "TIFF"), unknown),
        "tiff-16-bit-big-endian": (saved(Image.new("I;16B", (4, 4)), "TIFF"), unknown),
        "jpeg-cut": (saved(noise(), "JPEG")[:-200], "truncated"),
        "jpeg-progressive-cut": (saved(noise(), "JPEG", progressive=True)[:-200], "truncated"),
        "jpeg-header-only": (saved(noise(), "JPEG")[:20], unknown),
        "jpeg-two-components": (jpeg_of_two_components(), unknown),
        "jpeg-many-scans": (jpeg_of_many_scans(5_000), "scans, more than 100"),
        "png-cut": (saved(noise())[:-3_000], "truncated"),
        "png-no-pixels": (png(0, 1), unknown),
        "png-text-bomb": (inflated(b"zTXt", b"k\0\0"), "too large"),
        "png-international-text-bomb": (inflated(b"iTXt", b"k\0\1\0\0\0"), "too large"),
        "png-profile-bomb": (inflated(b"iCCP", b"k\0\0"), "too large"),
        "png-bomb": (png(60_000, 60_000), bomb),
        "png-bomb-below-pillow": (png(8_000, 8_000), "8000x8000 pixels are more than max_image_pixels=50000000"),
        "webp-bomb": (webp_claiming(16_000), bomb),
        "webp-cut": (saved(noise(), "WEBP", lossless=True)[:-2_000], "cannot be decoded"),
        "long": (saved(plain(size=(4_000, 2))), "one side is 200 times the other"),
    }


def odd_pictures() -> dict[str, tuple[bytes, tuple[int, int], tuple[int, int, int]]]:
    """Name → content of the file, (width, height) and colour of the upper left pixel of a picture that is good."""
    palette = plain(1, mode="P")
    palette.putpalette([*WHITE, *GREEN])
    see_through = plain(0, mode="P")
    see_through.putpalette([*RED, *GREEN])
    frames = {"save_all": True, "append_images": [plain(BLUE)]}
    deep = np.full((6, 8), 0x8000, dtype=np.uint16)
    junk, script = b"\xde\xad" * 20_000, b"<script>alert(1)</script>"
    broken_exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x31\0\3\0\0\0\1\0\6\0\0" * 5_000
    return {
        "one-pixel": (png(1, 1), (1, 1), RED),
        "thin": (saved(plain(size=(199, 1))), (199, 1), RED),
        "png-named-jpg": (saved(plain()), (8, 6), RED),
        "cmyk": (saved(plain((0, 255, 255, 0), mode="CMYK"), "JPEG"), (8, 6), RED),
        "grey-jpeg": (saved(plain(128, mode="L"), "JPEG"), (8, 6), GREY),
        "black-and-white": (saved(plain(1, mode="1")), (8, 6), WHITE),
        "16-bit-grey": (saved(Image.fromarray(deep)), (8, 6), GREY),
        "16-bit-grey-transparent": (
            png(1, 1, chunk(b"tRNS", b"\x12\x34"), depth=16, colour_type=0, rows=b"\0\x12\x34"), (1, 1), WHITE
        ),
        "16-bit-grey-not-that-one": (
            png(1, 1, chunk(b"tRNS", b"\x80\x01"), depth=16, colour_type=0, rows=b"\0\x80\0"), (1, 1), GREY
        ),
        "16-bit-grey-alpha": (png(1, 1, depth=16, colour_type=4, rows=b"\0\x80\0\xff\xff"), (1, 1), GREY),
        "16-bit-colour": (png(1, 1, depth=16, rows=b"\0\xff\xff\0\0\0\0"), (1, 1), RED),
        "palette": (saved(palette), (8, 6), GREEN),
        "palette-transparent": (saved(see_through, transparency=0), (8, 6), WHITE),
        "palette-half-transparent": (saved(see_through, transparency=bytes([127, 255])), (8, 6), (255, 128, 128)),
        "alpha": (saved(plain((255, 0, 0, 0), mode="RGBA")), (8, 6), WHITE),
        "alpha-webp": (saved(plain((255, 0, 0, 0), mode="RGBA"), "WEBP", lossless=True), (8, 6), WHITE),
        "grey-alpha": (saved(plain((0, 127), mode="LA")), (8, 6), GREY),
        "animated-webp": (saved(plain(), "WEBP", lossless=True, **frames), (8, 6), RED),
        "animated-png": (saved(plain(), "PNG", **frames), (8, 6), RED),
        "two-pictures-jpeg": (saved(plain(), "MPO", **frames, quality=95), (8, 6), RED),
        "progressive": (saved(plain(), "JPEG", progressive=True), (8, 6), RED),
        "profile-junk": (saved(plain(), "JPEG", icc_profile=junk), (8, 6), RED),
        "exif-junk": (saved(plain(), "JPEG", exif=broken_exif), (8, 6), RED),
        "exif-huge": (png(1, 1, chunk(b"eXIf", b"MM\0*" + b"\xff" * 2_000_000)), (1, 1), RED),
        "html-behind": (saved(plain(), "JPEG") + script, (8, 6), RED),
        "scan-marks-behind": (saved(plain(), "JPEG") + b"\xff\xda\0\2" * 20_000, (8, 6), RED),
        "text-long": (png(1, 1, chunk(b"tEXt", b"k\0" + b"A" * 900_000)), (1, 1), RED),
        **{f"turned-{number}": (turned(number), (32, 16), RED) for number in range(1, 9)},
        **{f"turned-{number}-jpeg": (turned(number, "JPEG"), (32, 16), RED) for number in range(1, 9)},
        **{f"turned-{number}-webp": (turned(number, "WEBP"), (32, 16), RED) for number in (6, 7)},
    }  # fmt: skip
