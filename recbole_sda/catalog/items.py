"""The catalogue: the items a recommender knows, with the text and the picture of each.

    dataset/<name>/<name>.item          RecBole's item file: an item id and any text fields
    dataset/<name>/images/<item>.jpg    jpg, jpeg, png or webp

Either may be missing, for the dataset or for a single item. Every item asked for stays in the catalogue, in
the order asked for; what it lacks is counted and named, never filled in.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from recbole_sda.catalog.fields import EMPTY_TEXT, ItemFields, clean_text, is_text_field, item_tokens, read_fields
from recbole_sda.catalog.images import PictureRefused, decode_picture, read_picture, read_pictures
from recbole_sda.errors import SDAError

__all__ = ["EMPTY_TEXT", "Catalog", "clean_text", "is_text_field", "item_tokens"]


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
    unused_columns: tuple[str, ...]  # columns of the .item file that are no text field

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
        texts = _read_texts(item_file, tokens, item_field, text_fields)
        pictures = read_pictures(
            _picture_folder(folder, image_folder),
            tokens,
            max_pixels=max_image_pixels,
            index_file=Path(index_file) if index_file else None,
            workers=workers,
            show_progress=show_progress,
        )
        if strict and pictures.problems:
            raise _unusable(pictures.problems, image_folder or folder / "images")
        return cls(
            name=name,
            tokens=tokens,
            item_file=item_file if item_file.is_file() else None,
            max_image_pixels=max_image_pixels,
            **texts._asdict(),
            **pictures._asdict(),
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
            data = read_picture(path)
        except PictureRefused as refused:
            raise _changed(path, f" ({refused})") from refused
        if hashlib.sha256(data).hexdigest() != self.image_digests[index]:
            raise _changed(path)
        return decode_picture(data, self.max_image_pixels)

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
        else:
            left_out = f"; columns left out: {', '.join(self.unused_columns)}" if self.unused_columns else ""
            lines.append(f"text fields: {', '.join(self.fields) or '(none)'}{left_out}")
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


def _read_texts(
    item_file: Path, tokens: tuple[str, ...], item_field: str, text_fields: Sequence[str] | None
) -> ItemFields:
    if item_file.is_file():
        return read_fields(item_file, tokens, item_field, text_fields)
    if text_fields:
        raise SDAError(f"text_fields={list(text_fields)}, but {item_file} does not exist")
    return ItemFields({}, (), ())


def _picture_folder(folder: Path, image_folder: str | Path | None) -> Path | None:
    if image_folder is None:
        return folder / "images" if (folder / "images").is_dir() else None
    if not Path(image_folder).is_dir():
        raise SDAError(f"image_folder={image_folder} is not a folder; leave it out for {folder / 'images'}")
    return Path(image_folder)


def _unusable(problems: dict[str, str], folder: str | Path) -> SDAError:
    return SDAError(
        f"{len(problems)} pictures in {folder} cannot be used: {_first(problems.values())}; "
        "repair or remove them, or leave out strict to count these items as without a picture"
    )


def _changed(path: Path, how: str = "") -> SDAError:
    return SDAError(f"{path} changed after the catalogue was opened{how}; run again, so that it is checked anew")


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
