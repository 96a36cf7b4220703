"""A contact sheet: many items' pictures on one, each with its id and title, so that an eye can judge a catalogue.

Pictures come through the catalogue, which refuses what is hostile; of texts only what prints is drawn.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from recbole_sda.catalog.items import Catalog
from recbole_sda.errors import SDAError

MAX_ITEMS = 2000  # a sheet of 130 megabytes in memory

_PICTURE, _MARGIN, _LINE, _FONT = 128, 8, 15, 12  # pixels
_CELL_WIDTH, _CELL_HEIGHT = _PICTURE + _MARGIN, _PICTURE + 2 * _LINE + _MARGIN
_WIDE = 1.5  # columns beyond a square's: sheets are looked at on screens
_LONGEST = 200  # characters that are looked at of a title
# Of Linux, macOS and Windows: many scripts, where Pillow's own font has the letters of ASCII.
_SYSTEM_FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")
_PAPER, _EMPTY, _INK, _GREY = "white", "#eeeeee", "black", "#777777"


def picture_modality(kinds: dict[str, str]) -> str | None:
    """The first modality whose kind is image."""
    return next((modality for modality, kind in kinds.items() if kind == "image"), None)


def choose_items(catalog: Catalog, count: int, seed: int | None) -> Sequence[int]:
    """Rows of the first `count` items, or with a `seed` of a random sample of them, in the catalogue's order."""
    if seed is None:
        return range(min(count, len(catalog)))
    chosen = np.random.default_rng(seed).choice(len(catalog), min(count, len(catalog)), replace=False)
    return np.sort(chosen).tolist()


def draw_contact_sheet(
    catalog: Catalog, rows: Sequence[int], *, modality: str = "image", font_file: Path | None = None
) -> Image.Image:
    """The pictures of `rows` in a grid, left to right; a grey field, with the reason, where there is none.

    Args:
        font_file: a TrueType or OpenType font; see `load_font`. What a font lacks is drawn as a box.

    Raises:
        SDAError: the font cannot be read.
    """
    font = load_font(font_file)
    refused = {record.item: record.file for record in catalog.content[modality].skipped}
    columns = max(1, min(len(rows), math.ceil(math.sqrt(_WIDE * len(rows)))))
    height = math.ceil(len(rows) / columns) * _CELL_HEIGHT + _MARGIN
    sheet = Image.new("RGB", (columns * _CELL_WIDTH + _MARGIN, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows):
        left = _MARGIN + place % columns * _CELL_WIDTH
        top = _MARGIN + place // columns * _CELL_HEIGHT
        picture = _thumbnail(catalog, modality, row)
        if picture is None:
            draw.rectangle((left, top, left + _PICTURE - 1, top + _PICTURE - 1), fill=_EMPTY)
            why = "refused" if catalog.tokens[row] in refused else f"no {modality}"
            draw.text((left + 6, top + _PICTURE // 2), _fitting(why, font, draw), fill=_GREY, font=font)
        else:
            sheet.paste(picture, (left + (_PICTURE - picture.width) // 2, top + (_PICTURE - picture.height) // 2))
        for line, text in enumerate((catalog.tokens[row], next(iter(catalog.item(row).values()), ""))):
            place_of_line = (left, top + _PICTURE + line * _LINE)
            draw.text(place_of_line, _fitting(text, font, draw), fill=_INK if line else _GREY, font=font)
    return sheet


def load_font(path: Path | None) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font in `path`; without one the system's with the most letters, or Pillow's.

    Raises:
        SDAError: it cannot be read.
    """
    if path is not None:
        try:
            return ImageFont.truetype(path, _FONT)
        except OSError as error:
            raise SDAError(f"--sheet-font={path} cannot be read as a font: {error}") from error
    for name in _SYSTEM_FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, _FONT)
    return ImageFont.load_default(_FONT)


def _thumbnail(catalog: Catalog, modality: str, row: int) -> Image.Image | None:
    if not catalog.content[modality].names[row]:
        return None
    picture = catalog.load(modality, row)
    picture.thumbnail((_PICTURE, _PICTURE))
    return picture


def _fitting(text: str, font, draw: ImageDraw.ImageDraw) -> str:
    """`text` on one line, cut to the width of a picture."""
    text = "".join(character for character in text[:_LONGEST] if character.isprintable())
    if isinstance(font, ImageFont.ImageFont):  # the one of a Pillow without FreeType
        text = text.encode("latin-1", "replace").decode("latin-1")
    shown = text
    while shown and draw.textlength(shown + ("" if shown == text else "..."), font) > _PICTURE:
        shown = shown[:-1]
    return shown if shown == text else shown + "..."
