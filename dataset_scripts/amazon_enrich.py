"""Texts and pictures' addresses for a dataset whose item ids are ASINs, such as RecBole's own amazon-beauty.

The items file gets what it lacks: empty values are filled, fields that it has not are added. Nothing that stands
there is changed, and no row comes or goes. The interactions are not touched.
"""

import csv
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from amazon_formats import ITEM_FIELDS  # beside this file
from amazon_items import Items, read_items
from image_urls import IMAGE_URLS, UrlFile
from raw_lines import BadLines

from recbole_sda.catalog.atomic import read_atomic, read_header, write_atomic
from recbole_sda.catalog.items import EMPTY_TEXT, item_tokens
from recbole_sda.defaults import read_datasets_own
from recbole_sda.errors import SDAError


def check_dataset(folder: Path) -> Path:
    """The items file of the dataset `folder`.

    Raises:
        SDAError: there is none, or it has no `item_id`.
    """
    folder = Path(os.path.abspath(folder))
    path = folder / f"{folder.name}.item"
    if not path.is_file():
        raise SDAError(f"--enrich {folder} has no {path.name}; name a dataset folder with its items")
    if "item_id" not in read_header(path):
        raise SDAError(f"{path} has no field item_id, only {', '.join(read_header(path))}; rename the items' ids")
    return path


def enrich(folder: Path, year: int, metadata: Path, text_fields: Sequence[str], bad: BadLines) -> list[str]:
    """Add to the dataset `folder` what `metadata` knows of its items.

    The new `.item` takes the old one's place at once; the first one stays beside it as `.item.original`.

    Args:
        year: release of the metadata.
        text_fields: of an item, for the prompts.
        bad: what becomes of a line that cannot be read.

    Returns:
        What was added, a sentence each.

    Raises:
        SDAError: the folder is no dataset with items, or the metadata is about none of them.
    """
    path = check_dataset(folder)
    kinds = read_header(path)
    try:
        with read_items(metadata, year, pa.array(item_tokens(path)), bad, path.parent) as items:
            added = {name: "token" for name, count in items.fields().items() if count and name not in kinds}
            kept, urls = _merge_urls(path.parent / IMAGE_URLS, items)
            filled = _fill(path, kinds | added, items)
            counts = ", ".join(f"{name} {count:,}" for name, count in filled.items() if count)
            notes = [
                f"{items.found:,} of {len(items):,} items are in the metadata of {year}",
                f"values filled: {counts or 'none'}",
                f"addresses of pictures for {urls:,} items; {kept:,} items had some, which were kept",
                _have_read(path, text_fields),
                bad.note(),
            ]
    except OSError as error:
        raise SDAError(f"{path.parent} cannot be written: {error.strerror}; run the same command again") from error
    return [note for note in notes if note]


def _fill(path: Path, kinds: Mapping[str, str], items: Items) -> dict[str, int]:
    """Rewrite the items file with the fields `kinds`; return how many values of each were filled."""
    counts = dict.fromkeys(kinds, 0)

    def rows() -> Iterator[list[str]]:
        lines = read_atomic(path)
        names = [field.partition(":")[0] for field in next(lines)[1]]
        for _, fields in lines:
            row = dict.fromkeys(kinds, "") | dict(zip(names, fields, strict=True))
            found = items.get(row["item_id"])
            for name, value in zip(ITEM_FIELDS, found.texts if found else (), strict=False):
                if name in row and row[name].strip() in EMPTY_TEXT and _fits(value, kinds[name]):
                    row[name] = value
                    counts[name] += 1
            yield list(row.values())

    with _replacing(path) as new:
        write_atomic(new, [f"{name}:{kind}" for name, kind in kinds.items()], rows())
        _keep_original(path)
    return counts


def _have_read(path: Path, text_fields: Sequence[str]) -> str:
    """Have runs make texts of all `text_fields` that are there, unless the dataset's own YAML says of which."""
    settings, kinds = path.with_suffix(".yaml"), read_header(path)
    line = f"text_fields: [{', '.join(name for name in text_fields if name in kinds)}]"
    if read_datasets_own(path.parent).get("text_fields"):
        return f"{settings} says what makes an item's text; now there could be {line}"
    with open(settings, "a", encoding="utf-8") as file:
        file.write(f"{line}      # (list) Written by dataset_scripts/amazon.py --enrich.\n")
    return f"{settings} says {line}"


def _fits(value: str, kind: str) -> bool:
    """Whether a field of RecBole's type `kind` can hold `value`: a range of prices is no number."""
    if kind == "float":
        return value.replace(".", "", 1).isdecimal()
    return bool(value) and kind != "float_seq"


def _merge_urls(path: Path, items: Items) -> tuple[int, int]:
    """Add addresses for items without any; return how many items had some, and how many got some."""
    known, added = set(), 0
    with _replacing(path) as new, open(new, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("item_id", "url"))
        for token, urls in UrlFile(path).items() if path.is_file() else ():
            known.add(token)
            writer.writerows((token, url) for url in urls)
        for token, row in items:
            if row.urls and token not in known:
                added += 1
                writer.writerows((token, url) for url in row.urls)
    return len(known), added


def _keep_original(path: Path) -> None:
    original = path.with_name(f"{path.name}.original")
    if original.exists():
        return
    try:
        os.link(path, original)  # a new file will take the name `path`; this one keeps the content
    except OSError:  # a disk that knows no links
        with _replacing(original) as copy:
            shutil.copyfile(path, copy)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a file beside `path` that takes its place when the block ends without an error."""
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
