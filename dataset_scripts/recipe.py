"""What the scripts for well-known datasets share: their options, what is left out, and the folder they write."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from folder import FileRecord, Provenance, chosen_pictures, examples, readme, write_dataset
from interactions import (
    Funnel,
    Interactions,
    in_time_order,
    k_core,
    most_popular_items,
    rating_at_least,
    without_repeats,
)

from recbole_sda.catalog.images import find_pictures
from recbole_sda.errors import SDAError


def add_options(parser: argparse.ArgumentParser, *, pictures: str) -> None:
    """Options of every such script; `pictures` says what the pictures are."""
    add = parser.add_argument
    add("--output", required=True, type=Path, help="dataset folder to write")
    add("--raw", type=Path, default="dataset/raw", metavar="FOLDER", help="of downloads (default: %(default)s)")
    add("--images", type=Path, metavar="FOLDER", help=f"{pictures} named <item>.(jpg|jpeg|png|webp)")
    add("--link-images", action="store_true", help="hard links where possible instead of copies")
    add("--rating-threshold", type=float, metavar="R", help="leave out interactions rated below R")
    add("--max-items", type=int, metavar="N", help="keep the N most popular items, for a quick start")
    add("--k-core", type=int, default=5, metavar="K", help="users and items have K interactions (default: 5)")
    add("--overwrite", action="store_true", help="replace a dataset that these scripts wrote there")


def check_options(options: argparse.Namespace) -> None:
    for name in ("k_core", "max_items"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise SDAError(f"--{name.replace('_', '-')} {value} is not at least 1")
    if options.images is not None and not options.images.is_dir():
        raise SDAError(f"--images {options.images} is not a folder")


def fetch(url: str, target: Path, *, md5: str | None = None) -> Path:
    """Download `url` to `target` unless it is there; see downloads.py."""
    try:
        import downloads  # beside this file; needs the extra
    except ImportError as error:
        raise SDAError(
            f"a download needs {error.name}: pip install 'recbole_sda[datasets]', or save {url} with a browser "
            "and name it with --source"
        ) from error
    return downloads.fetch(url, target, md5=md5)


def filtered(interactions: Interactions, options: argparse.Namespace) -> tuple[Interactions, Funnel]:
    """What the options leave, in order of time, and the counts after each step."""
    funnel = Funnel()
    kept = funnel.step("as distributed", interactions)
    if options.rating_threshold is not None:
        if kept.rating is None:
            raise SDAError(
                f"--rating-threshold {options.rating_threshold:g}: this dataset has no ratings; leave it out"
            )
        kept = funnel.step(
            f"rated {options.rating_threshold:g} or better", rating_at_least(kept, options.rating_threshold)
        )
    kept = funnel.step("a user and an item once, the earliest", without_repeats(kept))
    if options.max_items is not None:
        kept = funnel.step(
            f"{options.max_items:,} most popular items", most_popular_items(kept, options.max_items)
        )
    if options.k_core > 1:
        kept = funnel.step(f"{options.k_core}-core", k_core(kept, users=options.k_core, items=options.k_core))
    if not len(kept):
        raise SDAError(f"no interaction is left; choose a smaller --k-core or threshold\n{funnel.table()}")
    return in_time_order(kept), funnel


def write(
    output: Path,
    interactions: Interactions,
    items: pd.DataFrame,
    options: argparse.Namespace,
    *,
    text_fields: Sequence[str],
    domain: str,
    provenance: Provenance,
    files: Sequence[Path],
    funnel: Funnel,
    command: str,
) -> str:
    """Write the dataset of the items that are left, and return what is to be printed of it.

    Args:
        items: item_id, the text fields and any others, as strings.
    """
    kept = set(interactions.occurring_items().to_pylist())
    items = items[items["item_id"].isin(kept)].drop_duplicates("item_id")
    pictures = find_pictures(options.images, kept) if options.images else None
    rated = ["rating:float"] if interactions.rating is not None else []
    bare = items[(items[list(text_fields)] == "").all(axis=1)]
    notes = [f"{len(kept) - len(items) + len(bare):,} of {len(kept):,} items have no text"]
    if pictures is None:
        notes.append("no pictures: the dataset's YAML says modalities: [text]")
    else:
        notes.append(f"{len(kept) - len(pictures.names):,} of {len(kept):,} items have no picture")
        if pictures.problems:
            notes.append(f"{len(pictures.problems):,} pictures refused" + examples(pictures.problems.values()))
    write_dataset(
        output,
        inter_fields=["user_id:token", "item_id:token", *rated, "timestamp:float"],
        interactions=interactions.rows(),
        item_fields=[f"{field}:token" for field in items.columns],
        items=items.itertuples(index=False, name=None),
        settings={
            "text_fields": list(text_fields),
            "prompt_domain": domain,
            "k_core": options.k_core if options.k_core > 1 else None,
        },
        readme=readme(
            provenance,
            command=command,
            files=[FileRecord.of(path) for path in files],
            funnel=funnel.table(),
            notes=notes,
        ),
        place_pictures=chosen_pictures(options.images, pictures.names.values(), link=options.link_images)
        if pictures
        else None,
    )
    source = [provenance.title, f"terms: {provenance.licence}", f"cite: {provenance.citation}"]
    return "\n".join([*source, funnel.table(), f"wrote {output}", *(f"  {note}" for note in notes)])
