"""Thumbnails as data URIs, drawn anew from decoded pixels: nothing of a crawled file's bytes reaches the page."""

import base64
import io

from PIL import Image

SIDE = 96  # pixels
QUALITY = 72


def thumbnail(picture: Image.Image) -> str:
    """The picture, small, as the URI of a WebP.

    Args:
        picture: RGB, as the catalogue's reader gives it.
    """
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
