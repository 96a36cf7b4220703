"""What the scripts for well-known datasets share: their options, what is left out, and the folder they write."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from dataset_pictures import chosen_pictures, no_pictures_note, unreadable_note, unreadable_pictures
from dataset_readme import FileRecord, Provenance, readme
from folder import check_output, write_dataset
from interactions import Funnel, Interactions
from narrow import narrow
from texts import examples

from recbole_sda.catalog.images import find_pictures
from recbole_sda.errors import SDAError


def run(
    script: str,
    argv: Sequence[str] | None,
    parse_options: Callable[[Sequence[str]], argparse.Namespace],
    convert: Callable[[argparse.Namespace, Path, str], str],
) -> int:
    """The script's main: parse, check, convert, print.

    Args:
        script: its name, for the README of what it writes.
        convert: of options, output and command; returns what is to be printed.

    Returns:
        The exit status.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    options = parse_options(argv)
    try:
        check_options(options)
        inputs = {"--source": options.source, "--images": options.images}
        output = check_output(options.output, overwrite=options.overwrite, inputs=inputs)
        print(convert(options, output, shlex.join(["python", f"dataset_scripts/{script}", *argv])))
    except SDAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the output is as it was", file=sys.stderr)
        return 130
    return 0


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


def narrowed(interactions: Interactions, options: argparse.Namespace) -> tuple[Interactions, Funnel]:
    """What the options leave; see narrow.py."""
    return narrow(
        interactions,
        rating_threshold=options.rating_threshold,
        max_items=options.max_items,
        users=options.k_core,
        items=options.k_core,
    )


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
    silent = items[(items[list(text_fields)] == "").all(axis=1)]
    notes = [f"{len(kept) - len(items) + len(silent):,} of {len(kept):,} items have no text"]
    if pictures is None:
        notes.append(no_pictures_note(output))
    else:
        unreadable = unreadable_pictures(options.images, pictures.names)
        bare = len(kept) - len(pictures.names) + len(unreadable)
        notes += [f"{bare:,} of {len(kept):,} items have no picture", unreadable_note(unreadable)]
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
