"""The catalogue: the items a recommender knows, with the text and the picture of each.

    dataset/<name>/<name>.item          RecBole's item file: an item id and any text fields
    dataset/<name>/images/<item>.jpg    jpg, jpeg, png or webp

Either may be missing, for the dataset or for a single item. Every item asked for stays in the catalogue, in
the order asked for; what it lacks is counted and named, never filled in.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from recbole_sda.catalog.atomic import one_line, read_atomic, read_header
from recbole_sda.catalog.images import (
    PictureFolder,
    PictureRefused,
    check_pictures,
    find_pictures,
    open_image,
)
from recbole_sda.errors import SDAError

EMPTY_TEXT = frozenset({"", "nan", "NaN", "None", "null"})

_NOT_TEXT = re.compile(
    r"ids?|asin|isbn|ean|upc|gtin|sku|(im|img)?ur[il]s?|href|links?|path|src|file(name)?"
    r"|(image|img|picture|photo|poster|thumbnail|video)s?|(sales)?rank"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True, eq=False)
class Catalog:
    """Items in a fixed order, with text, picture and presence of each; `Catalog.open` reads one from disk."""

    name: str
    tokens: tuple[str, ...]
    fields: dict[str, list[str]]  # text field -> a value for every item, "" when missing
    image_paths: list[Path | None]  # None when missing or refused
    image_digests: list[str]  # sha256 of the file, "" when missing or refused
    problems: dict[str, str]  # item token -> file name and why its picture was refused
    absent: tuple[str, ...]  # items that the .item file does not list
    item_file: Path | None  # None when the dataset has no .item file
    ignored_pictures: tuple[str, ...]  # second pictures of an item, not used
    max_image_pixels: int

    @classmethod
    def open(
        cls,
        folder: str | Path,
        tokens: Iterable[str],
        *,
        name: str | None = None,
        item_field: str = "item_id",
        text_fields: Sequence[str] | None = None,
        image_folder: str | Path | None = None,
        max_image_pixels: int = 50_000_000,
        strict: bool = False,
        index_file: str | Path | None = None,
        workers: int | None = None,
        show_progress: bool = True,
    ) -> "Catalog":
        """Read the items `tokens` of the dataset in `folder`.

        Args:
            folder: a RecBole dataset folder.
            tokens: the item tokens, in the order that the catalogue keeps.
            name: the dataset's name, the stem of its files; by default that of the folder.
            item_field: the column of the .item file that holds the token.
            text_fields: the columns to read, in this order; None reads every column for which
                `is_text_field` holds.
            image_folder: where the pictures are; None looks into `folder/images` if there is one.
            max_image_pixels: a picture that declares more is refused before it is decoded.
            strict: refused pictures are an error.
            index_file: remembers which files were found good, so that the next run decodes only changed ones.
            workers: threads that check pictures.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise SDAError(f"dataset folder {folder} does not exist; check data_path and dataset")
        name = name or folder.resolve().name
        tokens = tuple(tokens)
        if len(set(tokens)) != len(tokens):
            raise ValueError("item tokens must be distinct")

        item_file = folder / f"{name}.item"
        item_file = item_file if item_file.is_file() else None
        if item_file:
            fields, absent = _read_fields(item_file, tokens, item_field, text_fields)
        elif text_fields:
            raise SDAError(f"text_fields={list(text_fields)}, but {folder / name}.item does not exist")
        else:
            fields, absent = {}, ()

        pictures_in = _picture_folder(folder, image_folder)
        pictures = find_pictures(pictures_in, tokens) if pictures_in else PictureFolder({}, {}, (), 0)
        checks = (
            check_pictures(
                pictures_in,
                pictures.names.values(),
                max_pixels=max_image_pixels,
                index_file=Path(index_file) if index_file else None,
                workers=workers,
                show_progress=show_progress,
            )
            if pictures.names
            else {}
        )
        paths: list[Path | None] = []
        digests, problems = [], {}
        for token in tokens:
            file_name = pictures.names.get(token)
            check = checks[file_name] if file_name else None
            good = check is not None and not check.problem
            paths.append(pictures_in / file_name if good else None)
            digests.append(check.digest if good else "")
            if check and check.problem:
                problems[token] = f"{file_name}: {check.problem}"
            elif token in pictures.problems:
                problems[token] = pictures.problems[token]
        if strict and problems:
            raise SDAError(
                f"{len(problems)} pictures in {pictures_in} cannot be used: {_first(problems.values())}; "
                "repair or remove them, or leave out strict to count these items as without a picture"
            )
        return cls(
            name=name,
            tokens=tokens,
            fields=fields,
            image_paths=paths,
            image_digests=digests,
            problems=problems,
            absent=absent,
            item_file=item_file,
            ignored_pictures=pictures.ignored,
            max_image_pixels=max_image_pixels,
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def present(self, modality: str) -> np.ndarray:
        """For every item, whether it has this modality ("image" or "text"): a boolean array."""
        if modality == "image":
            return np.array([path is not None for path in self.image_paths], dtype=bool)
        if modality == "text":
            present = np.zeros(len(self), dtype=bool)
            for values in self.fields.values():
                present |= np.array([value != "" for value in values], dtype=bool)
            return present
        raise SDAError(f"modality {modality!r} is unknown to the catalogue; choose image or text")

    def fingerprint(self, modality: str) -> str:
        """sha256 over the tokens in order and this modality's content: every byte of it counts."""
        digest = hashlib.sha256()
        _update(digest, self.tokens)
        if modality == "image":
            _update(digest, self.image_digests)
        elif modality == "text":
            for field, values in self.fields.items():
                _update(digest, [field])
                _update(digest, values)
        else:
            raise SDAError(f"modality {modality!r} is unknown to the catalogue; choose image or text")
        return digest.hexdigest()

    def item(self, index: int) -> dict[str, str]:
        """The text fields that this item has, in the catalogue's field order."""
        return {field: values[index] for field, values in self.fields.items() if values[index]}

    def load_image(self, index: int) -> Image.Image:
        """The item's picture, RGB; an item without one (see `present`) is an error."""
        path = self.image_paths[index]
        if path is None:
            raise SDAError(f"item {self.tokens[index]!r} has no picture; ask present('image') first")
        try:
            return open_image(path, self.max_image_pixels)
        except PictureRefused as refused:
            raise SDAError(f"{path}: {refused}; the file changed after the catalogue was opened") from refused

    def counts(self) -> dict[str, int]:
        """How many items there are and what they lack."""
        image, text = self.present("image"), self.present("text")
        return {
            "items": len(self),
            "with_both": int((image & text).sum()),
            "without_image": int((~image).sum()),
            "without_text": int((~text).sum()),
            "absent": len(self.absent),
            "unreadable_pictures": len(self.problems),
            "ignored_pictures": len(self.ignored_pictures),
        }

    def summary(self) -> str:
        """The counts in words, a line a finding, with the first few names."""
        counts = self.counts()
        lines = [
            f"catalogue {self.name}: {counts['items']:,} items, {counts['with_both']:,} with image and text, "
            f"{counts['without_image']:,} without image, {counts['without_text']:,} without text"
        ]
        if self.item_file is None:
            lines.append("no .item file: no item has a text")
        if self.absent:
            lines.append(f"{len(self.absent):,} items are not in {self.item_file.name}: {_first(self.absent)}")
        if self.problems:
            lines.append(f"{len(self.problems):,} pictures refused: {_first(self.problems.values())}")
        if self.ignored_pictures:
            lines.append(
                f"{len(self.ignored_pictures):,} second pictures of an item not used: "
                f"{_first(self.ignored_pictures)}"
            )
        return "\n  ".join(lines)


def is_text_field(name: str) -> bool:
    """Whether a column of this name is read when `text_fields` is not given.

    Names are split into words at underscores and capitals; a name with a word for an identifier (id, asin,
    isbn), an address (url, link, path), a picture or video (image, img, poster) or a sales rank is left out:
    `imdbId`, `imUrl`, `image_src`, `sales_rank`.
    """
    return not any(_NOT_TEXT.fullmatch(word.lower()) for word in _WORD.findall(name))


def item_tokens(item_file: str | Path, item_field: str = "item_id") -> tuple[str, ...]:
    """Every item token of a .item file, in the file's order."""
    item_file = Path(item_file)
    column = _column(item_file, read_header(item_file), item_field)
    rows = (fields for _, fields in read_atomic(item_file))
    next(rows)
    return tuple(dict.fromkeys(fields[column] for fields in rows))


def clean_text(value: str) -> str:
    """`value` with single spaces; "" where it stands for nothing (NaN, None, null, blanks)."""
    text = " ".join(one_line(value).split())
    return "" if text in EMPTY_TEXT else text


def _read_fields(
    path: Path, tokens: tuple[str, ...], item_field: str, text_fields: Sequence[str] | None
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    header = read_header(path)
    id_column = _column(path, header, item_field)
    if text_fields is None:
        text_fields = [
            field
            for field, kind in header.items()
            if field != item_field and kind != "float_seq" and is_text_field(field)
        ]
    columns = {field: _column(path, header, field, key="text_fields") for field in text_fields}
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
    return fields, tuple(token for token in tokens if token not in rows_seen)


def _column(path: Path, header: dict[str, str], field: str, key: str = "ITEM_ID_FIELD") -> int:
    if field not in header:
        raise SDAError(f"{key}: {path} has no field {field!r}; it has {', '.join(header)}")
    return list(header).index(field)


def _picture_folder(folder: Path, image_folder: str | Path | None) -> Path | None:
    if image_folder is None:
        return folder / "images" if (folder / "images").is_dir() else None
    if not Path(image_folder).is_dir():
        raise SDAError(f"image_folder={image_folder} is not a folder; leave it out for {folder / 'images'}")
    return Path(image_folder)


def _update(digest, values: Sequence[str]) -> None:
    digest.update(f"{len(values)}\n".encode())
    for value in values:  # the length before each value: ["ab", ""] is not ["a", "b"]
        data = value.encode()
        digest.update(f"{len(data)}:".encode())
        digest.update(data)


def _first(values: Iterable[str], limit: int = 5) -> str:
    values = list(values)
    more = f" and {len(values) - limit:,} more" if len(values) > limit else ""
    return ", ".join(values[:limit]) + more
