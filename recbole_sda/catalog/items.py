"""The catalogue: the items a recommender knows, with what each has of every modality.

    dataset/<name>/<name>.item            text: RecBole's item file, an item id and any text fields
    dataset/<name>/images/<item>.jpg      image: jpg, jpeg, png or webp
    dataset/<name>/audio/<item>.wav       audio: wav, flac, mp3 or ogg
    dataset/<name>/<modality>/<item>.…    any other modality of pictures or recordings
    dataset/<name>/<modality>.npy         any other modality of vectors, with <modality>.items.txt

A single item may lack any of them. Every item asked for stays in the catalogue, in the order asked for; what
it lacks is counted and named, never filled in.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recbole_sda.catalog.fields import EMPTY_TEXT, ItemFields, clean_text, is_text_field, item_tokens, read_fields
from recbole_sda.catalog.modalities import Source, kinds_of, read_modality
from recbole_sda.catalog.skipped import Skipped, printable
from recbole_sda.errors import SDAError

__all__ = ["EMPTY_TEXT", "Catalog", "clean_text", "is_text_field", "item_tokens"]


@dataclass(frozen=True, eq=False)
class Catalog:
    """Items in a fixed order, with their content in every modality; `Catalog.open` reads one from disk.

    It holds names and digests, not contents, and can be sent to other processes.
    """

    name: str
    tokens: tuple[str, ...]
    kinds: dict[str, str]  # modality -> text, image, audio or vectors, in the configured order
    fields: dict[str, list[str]]  # text field -> a value for every item, "" when missing
    absent: tuple[str, ...]  # items that the .item file does not list
    unused_columns: tuple[str, ...]  # columns of the .item file that are no text field
    item_file: Path | None  # None when the dataset has no .item file
    content: dict[str, Any]  # modality -> what the items have of it, as `modalities` describes

    @classmethod
    def open(
        cls,
        folder: str | Path,
        tokens: Iterable[str],
        *,
        modalities: Sequence[str] = ("image", "text"),
        kinds: Mapping[str, str] | None = None,
        name: str | None = None,
        item_field: str = "item_id",
        text_fields: Sequence[str] | None = None,
        image_folder: str | Path | None = None,
        max_image_pixels: int = 50_000_000,
        max_audio_seconds: float = 30,
        strict: bool = False,
        index_folder: str | Path | None = None,
        workers: int | None = None,
        show_progress: bool = True,
    ) -> "Catalog":
        """Read the items `tokens` of the dataset in `folder`.

        Args:
            folder: a RecBole dataset folder.
            tokens: the item tokens, in the order that the catalogue keeps.
            modalities: what is read of the items.
            kinds: the kind of a modality whose name does not tell it.
            name: the dataset's name, the stem of its files; by default that of the folder.
            item_field: the column of the .item file that holds the token.
            text_fields: the columns to read, in this order; None reads every column for which
                `is_text_field` holds.
            image_folder: where the pictures of modality image are; None looks into `folder/images`.
            max_image_pixels: a picture that declares more is refused before it is decoded.
            max_audio_seconds: a recording that declares more is refused before it is decoded.
            strict: the first refused file is an error.
            index_folder: where one file a modality remembers which files were found good, so that the next
                run decodes only changed ones.
            workers: threads that check files.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise SDAError(f"dataset folder {folder} does not exist; check data_path and dataset")
        if image_folder is not None and not Path(image_folder).is_dir():
            raise SDAError(f"image_folder={image_folder} is not a folder; leave it out for {folder / 'images'}")
        name = name or folder.resolve().name
        tokens = tuple(tokens)
        if len(set(tokens)) != len(tokens):
            raise ValueError("item tokens must be distinct")
        item_file = folder / f"{name}.item"
        texts = _read_texts(item_file, tokens, item_field, text_fields)
        source = Source(
            folder=folder,
            name=name,
            tokens=tokens,
            texts=texts,
            image_folder=Path(image_folder) if image_folder else None,
            max_image_pixels=max_image_pixels,
            max_audio_seconds=max_audio_seconds,
            strict=strict,
            index_folder=Path(index_folder) if index_folder else None,
            workers=workers,
            show_progress=show_progress,
        )
        kinds = kinds_of(source, modalities, kinds or {})
        return cls(
            name=name,
            tokens=tokens,
            kinds=kinds,
            item_file=item_file if item_file.is_file() else None,
            content={modality: read_modality(source, modality, kind) for modality, kind in kinds.items()},
            **texts._asdict(),
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def present(self, modality: str) -> np.ndarray:
        """For every item, whether it has this modality: (items,) bool."""
        return self._content(modality).present

    def fingerprint(self, modality: str) -> str:
        """sha256 over the tokens in order and this modality's content: every byte of it counts."""
        digest = hashlib.sha256()
        _update(digest, self.tokens)
        for part in self._content(modality).fingerprint_parts():
            _update(digest, part)
        return digest.hexdigest()

    def contents(self, modality: str) -> list[str]:
        """For every item the sha256 of its file or vector in hexadecimal, "" when missing; not of a text."""
        return self._content(modality).contents

    def sizes(self, modality: str) -> np.ndarray:
        """(items, 2) int32, zeros when missing; not of a text.

        Of an image the height and width as it will be loaded, of audio the samples and samples a second, of
        vectors 1 and the dimensions.
        """
        return self._content(modality).sizes

    def item(self, index: int) -> dict[str, str]:
        """The text fields that this item has, in the catalogue's field order."""
        return {field: values[index] for field, values in self.fields.items() if values[index]}

    def load(self, modality: str, index: int) -> Any:
        """The item's content: an RGB image, an `Audio`, a (dimensions,) float32 array, or the text fields.

        An item without it (see `present`) and a file that changed since `open` are errors.
        """
        return self._content(modality).load(index)

    def load_image(self, index: int) -> Image.Image:
        """The item's picture in the modality image, RGB."""
        return self.load("image", index)

    @property
    def skipped(self) -> list[Skipped]:
        """Every file and vector that was refused, modality by modality, in the order of the items."""
        return [record for content in self.content.values() for record in content.skipped]

    def counts(self) -> dict[str, int]:
        """How many items there are, what they lack, and how many files were refused or one too many."""
        present = {modality: self.present(modality) for modality in self.kinds}
        return {
            "items": len(self),
            "with_all": int(np.logical_and.reduce([np.ones(len(self), bool), *present.values()]).sum()),
            **{f"without_{modality}": int((~here).sum()) for modality, here in present.items()},
            "absent": len(self.absent),
            "skipped": len(self.skipped),
            "ignored": sum(len(content.ignored) for content in self.content.values()),
        }

    def summary(self) -> str:
        """The counts in words, a line a finding, with the first few names."""
        counts = self.counts()
        lacking = ", ".join(f"{counts[f'without_{modality}']:,} without {modality}" for modality in self.kinds)
        lines = [
            f"catalogue {self.name}: {counts['items']:,} items, {counts['with_all']:,} with "
            f"{_enumerated(list(self.kinds))}, {lacking}"
        ]
        if self.item_file is None:
            lines.append("no .item file: no item has a text")
        else:
            left_out = f"; columns left out: {', '.join(self.unused_columns)}" if self.unused_columns else ""
            lines.append(f"text fields: {', '.join(self.fields) or '(none)'}{left_out}")
        if self.absent:
            lines.append(f"{len(self.absent):,} items are not in {self.item_file.name}: {_first(self.absent)}")
        for modality, content in self.content.items():
            if content.skipped:
                reasons = [f"{record.file}: {record.reason}" for record in content.skipped]
                lines.append(f"{modality}: {len(reasons):,} refused: {_first(reasons)}")
            if content.ignored:
                lines.append(
                    f"{modality}: {len(content.ignored):,} second files of an item not used: "
                    f"{_first(content.ignored)}"
                )
        return "\n  ".join(lines)

    def _content(self, modality: str) -> Any:
        if modality not in self.content:
            raise SDAError(
                f"modality {modality!r} is unknown to the catalogue; choose {_enumerated(list(self.kinds), 'or')}"
            )
        return self.content[modality]


def _read_texts(
    item_file: Path, tokens: tuple[str, ...], item_field: str, text_fields: Sequence[str] | None
) -> ItemFields:
    if item_file.is_file():
        return read_fields(item_file, tokens, item_field, text_fields)
    if os.path.lexists(item_file):
        raise SDAError(f"{item_file} is not a regular file, nor a link to one; repair or remove it")
    if text_fields:
        raise SDAError(f"text_fields={list(text_fields)}, but {item_file} does not exist")
    return ItemFields({}, (), ())


def _update(digest, values: Sequence[str]) -> None:
    digest.update(f"{len(values)}\n".encode())
    for value in values:  # the length before each value: ["ab", ""] is not ["a", "b"]
        data = value.encode()
        digest.update(f"{len(data)}:".encode())
        digest.update(data)


def _first(values: Iterable[str], limit: int = 5) -> str:
    values = [printable(value) for value in values]
    more = f" and {len(values) - limit:,} more" if len(values) > limit else ""
    return ", ".join(values[:limit]) + more


def _enumerated(names: list[str], conjunction: str = "and") -> str:
    """a, b and c"""
    return f" {conjunction} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
