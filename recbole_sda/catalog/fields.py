"""What a .item file says of the items: its tokens, and the columns that serve as text."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from recbole_sda.catalog.atomic import one_line, read_atomic, read_header
from recbole_sda.errors import SDAError

EMPTY_TEXT = frozenset({"", "nan", "NaN", "None", "null"})

_UNSEEN = frozenset({"Cc", "Cf", "Zs"})  # controls, formats such as the zero-width space, blanks
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SIZE = re.compile(r"\d+|high|hi|low|res|large|medium|small")  # `image_2`, `imageURLHighRes`
_NOT_TEXT = re.compile(
    r"ids?|asins?|isbn|ean|upc|gtin|sku|(im|img)?ur[il]s?|href|links?|paths?|src|file(name)?s?"
    r"|(image|img|picture|photo|poster|thumb(nail)?|video)s?|(sales)?ranks?"
)


class ItemFields(NamedTuple):
    """The text of a list of items."""

    fields: dict[str, list[str]]  # text field -> a value for every item, "" when missing
    absent: tuple[str, ...]  # items that the file does not list
    unused_columns: tuple[str, ...]  # columns that are neither the item's token nor a text field


def is_text_field(name: str) -> bool:
    """Whether a column of this name is read when `text_fields` is not given.

    Names are split into words at underscores and capitals, and the last word that is no number or size tells
    what the column holds. An identifier (id, asin, isbn), an address (url, link, path), a picture or video
    (image, img, poster) or a sales rank is left out: `imdbId`, `imUrl`, `image_src`, `sales_rank`; but
    `image_caption` and `video_title` are text.
    """
    words = [word for word in map(str.lower, _WORD.findall(name)) if not _SIZE.fullmatch(word)]
    return not words or not (_NOT_TEXT.fullmatch(words[-1]) or words[-2:] == ["file", "name"])


def item_tokens(item_file: str | Path, item_field: str = "item_id") -> tuple[str, ...]:
    """Every item token of a .item file, in the file's order."""
    item_file = Path(item_file)
    column = _column(item_file, read_header(item_file), item_field)
    rows = (fields for _, fields in read_atomic(item_file))
    next(rows)
    return tuple(dict.fromkeys(fields[column] for fields in rows))


def clean_text(value: str) -> str:
    """`value` with single spaces; "" where it stands for nothing (NaN, None, null) or shows nothing."""
    text = " ".join(one_line(value).split())
    return text if text not in EMPTY_TEXT and any(unicodedata.category(c) not in _UNSEEN for c in text) else ""


def read_fields(
    path: Path, tokens: Sequence[str], item_field: str, text_fields: Sequence[str] | None
) -> ItemFields:
    """The `text_fields` of the items `tokens`; None takes every column for which `is_text_field` holds."""
    header = read_header(path)
    id_column = _column(path, header, item_field)
    columns = _text_columns(path, header, item_field, text_fields)
    position = {token: index for index, token in enumerate(tokens)}
    fields = {field: [""] * len(tokens) for field in columns}
    rows_seen: dict[str, int] = {}

    lines = read_atomic(path)
    next(lines)
    for number, row in lines:
        token = row[id_column]
        index = position.get(token)
        if index is None:
            continue
        values = {field: clean_text(row[column]) for field, column in columns.items()}
        if token in rows_seen and any(fields[field][index] != value for field, value in values.items()):
            raise SDAError(
                f"{path}:{number}: item {token!r} stands on line {rows_seen[token]} too, with other values; "
                "keep one of the two rows"
            )
        rows_seen.setdefault(token, number)
        for field, value in values.items():
            fields[field][index] = value
    absent = tuple(token for token in tokens if token not in rows_seen)
    return ItemFields(fields, absent, tuple(field for field in header if field not in {item_field, *columns}))


def _text_columns(
    path: Path, header: dict[str, str], item_field: str, text_fields: Sequence[str] | None
) -> dict[str, int]:
    if text_fields is None:
        text_fields = [
            field
            for field, kind in header.items()
            if field != item_field and kind != "float_seq" and is_text_field(field)
        ]
    return {field: _column(path, header, field, key="text_fields") for field in text_fields}


def _column(path: Path, header: dict[str, str], field: str, key: str = "ITEM_ID_FIELD") -> int:
    if field not in header:
        raise SDAError(f"{key}: {path} has no field {field!r}; it has {', '.join(header)}")
    return list(header).index(field)
