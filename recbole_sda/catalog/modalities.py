"""What a modality can be. One row a kind: where a dataset keeps it, and how it is read.

Reading a kind gives an object with, for the items in the catalogue's order,

    present                (items,) bool
    load(row)              what a backbone takes of the item
    contents               the sha256 of each item's content in hexadecimal, "" when missing
    sizes                  (items, 2) int32, zeros when missing
    fingerprint_parts()    lists of text that together say every byte of the content
    skipped, ignored       what was refused, with the reason, and what was one file too many

A new kind is a class of that shape and a row of `KINDS`.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sda.catalog.audio import RECORDINGS, need_soundfile
from recbole_sda.catalog.fields import ItemFields
from recbole_sda.catalog.file_items import FileItems
from recbole_sda.catalog.files import FileFormat
from recbole_sda.catalog.images import PICTURES
from recbole_sda.catalog.texts import TextItems
from recbole_sda.catalog.vectors import VectorItems
from recbole_sda.errors import SDAError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class Source(NamedTuple):
    """A dataset, the items wanted of it, and how its files are to be checked."""

    folder: Path
    name: str  # of the dataset
    tokens: tuple[str, ...]
    texts: ItemFields
    image_folder: Path | None
    max_image_pixels: int
    max_audio_seconds: float
    strict: bool
    index_folder: Path | None
    workers: int | None
    show_progress: bool


class Kind(NamedTuple):
    """Where a dataset keeps a modality of this kind, and how it is read from there."""

    place: Callable[[Source, str], Path]
    read: Callable[[Source, str, Path | None], Any]  # None: the dataset has nothing of it


class Standard(NamedTuple):
    """A modality whose name says its kind."""

    kind: str
    optional: bool  # whether a dataset without its place is one where no item has it


def read_modality(source: Source, modality: str, kind: str) -> Any:
    """The items' content in `modality`; an SDAError when the dataset has no place for it."""
    place = KINDS[kind].place(source, modality)
    if os.path.lexists(place):  # a link to nowhere is no absence
        return KINDS[kind].read(source, modality, place)
    if STANDARD.get(modality) == Standard(kind, optional=True):
        return KINDS[kind].read(source, modality, None)
    raise SDAError(
        f"modality {modality!r} of kind {kind}: {place} does not exist; put it there, or leave {modality!r} out "
        "of modalities"
    )


def kinds_of(source: Source, modalities: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Modality → kind, in the order of `modalities`: as `given` says, as the name says, or vectors."""
    for modality, kind in given.items():
        if kind not in KINDS:
            raise SDAError(f"modality_kinds: {modality}: {kind!r} is unknown; choose {', '.join(KINDS)}")
    for modality in modalities:
        if not isinstance(modality, str) or not _NAME.fullmatch(modality):
            raise SDAError(f"modalities: {modality!r} is no name of letters, digits, - and _, which names files")
    if len(set(modalities)) != len(modalities):
        raise SDAError(f"modalities={list(modalities)} names one twice")
    return {modality: given.get(modality) or _kind_by_name(source, modality) for modality in modalities}


def _kind_by_name(source: Source, modality: str) -> str:
    standard = STANDARD.get(modality)
    if standard and os.path.lexists(KINDS[standard.kind].place(source, modality)):
        return standard.kind
    vectors = KINDS["vectors"].place(source, modality)
    if os.path.lexists(vectors):
        return "vectors"
    if standard and standard.optional:
        return standard.kind
    looked_for = f"{KINDS[standard.kind].place(source, modality)} nor {vectors}" if standard else str(vectors)
    raise SDAError(
        f"modality {modality!r}: {'neither ' if standard else 'no '}{looked_for} exists; put one there, say what "
        f"it is with modality_kinds={{{modality}: KIND}} ({', '.join(KINDS)}), or leave it out of modalities"
    )


def _item_file(source: Source, modality: str) -> Path:
    return source.folder / f"{source.name}.item"


def _read_texts(source: Source, modality: str, place: Path | None) -> TextItems:
    return TextItems(source.texts.fields, len(source.tokens))


def _picture_folder(source: Source, modality: str) -> Path:
    if modality == "image":
        return source.image_folder or source.folder / "images"
    return source.folder / modality


def _read_pictures(source: Source, modality: str, place: Path | None) -> FileItems:
    return _read_files(source, modality, place, PICTURES, source.max_image_pixels)


def _recording_folder(source: Source, modality: str) -> Path:
    return source.folder / modality


def _read_recordings(source: Source, modality: str, place: Path | None) -> FileItems:
    need_soundfile(modality)
    return _read_files(source, modality, place, RECORDINGS, source.max_audio_seconds)


def _read_files(source: Source, modality: str, place: Path | None, format: FileFormat, limit: float) -> FileItems:
    index_folder = source.index_folder
    return FileItems.open(
        place,
        source.tokens,
        modality=modality,
        format=format,
        limit=limit,
        strict=source.strict,
        index_file=index_folder / f"{source.name}-{modality}.csv" if index_folder else None,
        workers=source.workers,
        show_progress=source.show_progress,
    )


def _vector_file(source: Source, modality: str) -> Path:
    return source.folder / f"{modality}.npy"


def _read_vectors(source: Source, modality: str, place: Path | None) -> VectorItems:
    return VectorItems.open(place, source.tokens, modality=modality, strict=source.strict)


KINDS = {
    "text": Kind(_item_file, _read_texts),
    "image": Kind(_picture_folder, _read_pictures),
    "audio": Kind(_recording_folder, _read_recordings),
    "vectors": Kind(_vector_file, _read_vectors),
}
STANDARD = {
    "image": Standard("image", optional=True),
    "text": Standard("text", optional=True),
    "audio": Standard("audio", optional=False),
}
